package s3sync

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/kedgebackup/kedge/repo"
)

// S3Options says where a bucket is and who asks.
type S3Options struct {
	Bucket    string
	Endpoint  string // URL; "": Amazon's
	Region    string // "": us-east-1, or what the endpoint says
	PathStyle bool   // the bucket in the path and not in the name of the host
	// Credentials are asked for whenever a request is made. nil: those of the usual places,
	// which are the environment, the shared files, and the role of the instance.
	Credentials *credentials.Credentials
	// Transport is used for all requests; nil: one that waits at most a minute for an answer.
	Transport http.RoundTripper
}

// S3 is a bucket as Objects.
type S3 struct {
	core   minio.Core
	bucket string
}

// NewS3 returns a bucket. Nothing is asked of it yet.
func NewS3(o S3Options) (*S3, error) {
	endpoint, secure := "s3.amazonaws.com", true
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
			return nil, &repo.ConfigError{Reason: fmt.Sprintf("endpoint %q is not http://HOST or https://HOST", o.Endpoint)}
		}
		endpoint, secure = u.Host, u.Scheme == "https"
	}
	creds := o.Credentials
	if creds == nil {
		creds = credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: &http.Client{Timeout: 5 * time.Second}},
		})
	}
	lookup := minio.BucketLookupAuto
	if o.PathStyle {
		lookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(endpoint, &minio.Options{
		Creds: creds, Secure: secure, Region: o.Region, BucketLookup: lookup, Transport: o.Transport,
		MaxRetries: 1, // trying again is Patient's
	})
	if err != nil {
		return nil, &repo.ConfigError{Reason: err.Error()}
	}
	return &S3{*core, o.Bucket}, nil
}

// failure turns an error of the library into one of ours.
func (s *S3) failure(err error, key string) error {
	if err == nil {
		return nil
	}
	var net net.Error
	if errors.Is(err, context.Canceled) {
		return err
	}
	r := minio.ToErrorResponse(err)
	switch {
	case r.Code == "NoSuchBucket":
		return &repo.NotFoundError{What: "bucket", Name: s.bucket}
	case r.StatusCode == http.StatusNotFound || r.Code == "NoSuchKey":
		return &fs.PathError{Op: "get", Path: key, Err: fs.ErrNotExist}
	case r.StatusCode == http.StatusPreconditionFailed:
		return fmt.Errorf("%s: %w", key, ErrExists)
	case r.Code == "RequestTimeTooSkewed":
		return fmt.Errorf("%s: the clock of this machine is wrong: %w", key, err)
	case r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized:
		return &repo.RefusedError{Reason: fmt.Sprintf("%s: %s", key, orDash(r.Message))}
	case r.StatusCode >= 500, r.StatusCode == http.StatusConflict, r.StatusCode == http.StatusTooManyRequests,
		r.StatusCode == http.StatusRequestTimeout, r.Code == "RequestTimeout", r.Code == "SlowDown", r.Code == "InternalError",
		r.Code == "XAmzContentSHA256Mismatch", r.Code == "BadDigest", r.Code == "IncompleteBody":
		return Temporary(fmt.Errorf("%s: %w", key, err))
	case r.StatusCode == 0, errors.As(err, &net), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return Temporary(fmt.Errorf("%s: %w", key, err)) // the line, not the store
	}
	return fmt.Errorf("%s: %w", key, err)
}

// headerSHA256 is the checksum that a store compares and remembers.
const headerSHA256 = "X-Amz-Checksum-Sha256"

// Put creates an object.
func (s *S3) Put(ctx context.Context, key string, b Body) (string, error) {
	o := minio.PutObjectOptions{
		ContentType:  "application/octet-stream",
		UserMetadata: map[string]string{headerSHA256: base64.StdEncoding.EncodeToString(b.SHA256[:])},
		// The sum of the whole stands in a header; one in a trailer is refused by some stores.
		DisableContentSha256: false,
	}
	o.SetMatchETagExcept("*")
	info, err := s.core.PutObject(ctx, s.bucket, key, io.NewSectionReader(b, 0, b.Size), b.Size, "", b.SHA256.String(), o)
	return info.VersionID, s.failure(err, key)
}

// Get reads len(p) bytes at off.
func (s *S3) Get(ctx context.Context, key, version string, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	o := minio.GetObjectOptions{VersionID: version}
	if err := o.SetRange(off, off+int64(len(p))-1); err != nil {
		return 0, err
	}
	body, info, _, err := s.core.GetObject(ctx, s.bucket, key, o)
	if err != nil {
		if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return 0, io.EOF
		}
		return 0, s.failure(err, key)
	}
	defer body.Close()
	want := min(int64(len(p)), info.Size)
	n, err := io.ReadFull(body, p[:want])
	if err != nil {
		return n, Temporary(fmt.Errorf("%s: %w", key, err))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Stat describes an object.
func (s *S3) Stat(ctx context.Context, key, version string) (Object, error) {
	info, err := s.core.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{VersionID: version, Checksum: true})
	if err != nil {
		return Object{}, s.failure(err, key)
	}
	return object(info), nil
}

func object(i minio.ObjectInfo) Object {
	o := Object{Key: i.Key, Version: i.VersionID, Size: i.Size, Modified: i.LastModified}
	// That of an object of several parts is a sum of sums, and ends in their number.
	if sum, err := base64.StdEncoding.DecodeString(i.ChecksumSHA256); err == nil && len(sum) == len(o.SHA256) {
		o.SHA256 = Sum(sum)
	}
	return o
}

// List calls fn for every object whose key begins with prefix and comes after a key.
func (s *S3) List(ctx context.Context, prefix, after string, fn func(Object) error) error {
	token := ""
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, err := s.core.ListObjectsV2(s.bucket, prefix, after, token, "", 1000)
		if err != nil {
			return s.failure(err, prefix)
		}
		for _, info := range page.Contents {
			if err := fn(object(info)); err != nil {
				return err
			}
		}
		if token = page.NextContinuationToken; !page.IsTruncated || token == "" {
			return nil
		}
	}
}

// Delete deletes an object.
func (s *S3) Delete(ctx context.Context, key, version string) error {
	err := s.failure(s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{VersionID: version}), key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Retain keeps an object from being deleted until a time.
func (s *S3) Retain(ctx context.Context, key, version string, until time.Time) error {
	mode := minio.Compliance
	return s.failure(s.core.PutObjectRetention(ctx, s.bucket, key, minio.PutObjectRetentionOptions{
		Mode: &mode, RetainUntilDate: &until, VersionID: version,
	}), key)
}
