package s3sync

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"
)

// Begin begins an upload.
func (s *S3) Begin(ctx context.Context, key string) (string, error) {
	id, err := s.core.NewMultipartUpload(ctx, s.bucket, key, putOptions(headerSums, "SHA256"))
	if err == nil && id == "" {
		return "", Temporary(errors.New(key + ": the store gave the upload no id"))
	}
	return id, s.failure(err, key)
}

// PutPart stores a part.
func (s *S3) PutPart(ctx context.Context, key, upload string, n int, b Body) (Part, error) {
	p, err := s.core.PutObjectPart(ctx, s.bucket, key, upload, n, io.NewSectionReader(b, 0, b.Size), b.Size, minio.PutObjectPartOptions{
		Sha256Hex:            b.SHA256.String(),
		CustomHeader:         http.Header{headerSHA256: {base64.StdEncoding.EncodeToString(b.SHA256[:])}},
		DisableContentSha256: true, // as in putOptions
	})
	if err == nil && p.ETag == "" {
		return Part{}, Temporary(errors.New(key + ": the store gave a part no tag"))
	}
	return Part{n, b.Size, b.SHA256, p.ETag}, s.failure(err, key)
}

// Parts returns the parts that are there.
func (s *S3) Parts(ctx context.Context, key, upload string) ([]Part, error) {
	var parts []Part
	for marker := 0; ; {
		page, err := s.core.ListObjectParts(ctx, s.bucket, key, upload, marker, 1000)
		if err != nil {
			return nil, s.failure(err, key)
		}
		for _, p := range page.ObjectParts {
			part := Part{N: p.PartNumber, Size: p.Size, Tag: strings.Trim(p.ETag, `"`)}
			if sum, err := base64.StdEncoding.DecodeString(p.ChecksumSHA256); err == nil && len(sum) == len(part.SHA256) {
				part.SHA256 = Sum(sum)
			}
			parts = append(parts, part)
		}
		if !page.IsTruncated || page.NextPartNumberMarker <= marker {
			return parts, nil
		}
		marker = page.NextPartNumberMarker
	}
}

// Complete makes the parts an object.
func (s *S3) Complete(ctx context.Context, key, upload string, parts []Part) (string, error) {
	var o minio.PutObjectOptions
	o.SetMatchETagExcept("*")
	list := make([]minio.CompletePart, len(parts))
	for i, p := range parts {
		list[i] = minio.CompletePart{PartNumber: p.N, ETag: p.Tag, ChecksumSHA256: base64.StdEncoding.EncodeToString(p.SHA256[:])}
	}
	info, err := s.core.CompleteMultipartUpload(ctx, s.bucket, key, upload, list, o)
	return info.VersionID, s.failure(err, key)
}

// Abort forgets an upload.
func (s *S3) Abort(ctx context.Context, key, upload string) error {
	err := s.failure(s.core.AbortMultipartUpload(ctx, s.bucket, key, upload), key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
