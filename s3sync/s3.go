package s3sync

import (
	"bytes"
	"context"
	"crypto/tls"
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
	// Credentials(CredentialOptions{}).
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
		creds = Credentials(CredentialOptions{})
	}
	lookup := minio.BucketLookupAuto
	if o.PathStyle {
		lookup = minio.BucketLookupPath
	}
	line := o.Transport
	if line == nil {
		t, err := minio.DefaultTransport(secure)
		if err != nil {
			return nil, err
		}
		t.MaxIdleConnsPerHost = maxIdle
		line = t
	}
	core, err := minio.NewCore(endpoint, &minio.Options{
		Creds: creds, Secure: secure, Region: o.Region, BucketLookup: lookup, Transport: frank{line},
		MaxRetries: 1, // trying again is Patient's
	})
	if err != nil {
		return nil, &repo.ConfigError{Reason: err.Error()}
	}
	return &S3{*core, o.Bucket}, nil
}

// maxIdle is how many connections are kept for the next request: as many as can be in use.
const maxIdle = 64

// frank turns an answer of 200 that holds an error into the 500 that it should have been:
// some requests are answered with 200 before the store knows what will become of them. The
// bytes of objects are not looked into.
type frank struct{ http.RoundTripper }

// readsObject reports whether a request is one for the bytes of an object.
func readsObject(q *http.Request) bool {
	words := q.URL.Query()
	words.Del("versionId")
	return q.Method == http.MethodGet && len(words) == 0
}

// errorRoot is the root of the document that tells an error.
var errorRoot = []byte("<Error")

// RoundTrip does a request.
func (f frank) RoundTrip(q *http.Request) (*http.Response, error) {
	r, err := f.RoundTripper.RoundTrip(q)
	if err != nil || r.StatusCode != http.StatusOK || q.Method == http.MethodHead || readsObject(q) {
		return r, err
	}
	head := make([]byte, 512)
	n, err := io.ReadFull(r.Body, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		r.Body.Close()
		return nil, err
	}
	rest := r.Body
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head[:n]), rest), rest}
	if bytes.Contains(head[:n], errorRoot) {
		r.StatusCode, r.Status = http.StatusInternalServerError, "500 an error in an answer of 200"
	}
	return r, nil
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
	case errors.As(err, new(*repo.ConfigError)), errors.As(err, new(*tls.CertificateVerificationError)):
		return fmt.Errorf("%s: %w", key, err)
	case r.Code == "NoSuchBucket":
		return &repo.NotFoundError{What: "bucket", Name: s.bucket}
	case r.StatusCode == http.StatusNotFound || r.Code == "NoSuchKey" || r.Code == "InvalidPart":
		return &fs.PathError{Op: "get", Path: key, Err: fs.ErrNotExist}
	case r.StatusCode == http.StatusPreconditionFailed:
		return fmt.Errorf("%s: %w", key, ErrExists)
	case r.Code == "RequestTimeTooSkewed":
		return fmt.Errorf("%s: the clock of this machine is wrong: %w", key, err)
	case r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized:
		return &repo.RefusedError{Reason: fmt.Sprintf("%s: %s", key, orDash(r.Message))}
	case r.StatusCode == http.StatusNotImplemented || r.Code == "NotImplemented": // it will not be, next time
		return fmt.Errorf("%s: %w", key, err)
	case r.StatusCode >= 500, r.StatusCode == http.StatusConflict, r.StatusCode == http.StatusTooManyRequests,
		r.StatusCode == http.StatusRequestTimeout, r.Code == "RequestTimeout", r.Code == "SlowDown", r.Code == "InternalError",
		r.StatusCode == http.StatusBadRequest && strings.HasPrefix(r.Code, "400"), // it could not be read
		r.Code == "XAmzContentSHA256Mismatch", r.Code == "BadDigest", r.Code == "IncompleteBody":
		return Temporary(fmt.Errorf("%s: %w", key, err))
	case r.StatusCode == 0, errors.As(err, &net), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return Temporary(fmt.Errorf("%s: %w", key, err)) // the line, not the store
	}
	return fmt.Errorf("%s: %w", key, err)
}

// headerSHA256 is the checksum that a store compares and remembers; headerSums tells it that
// the parts of an upload will have one.
const (
	headerSHA256 = "X-Amz-Checksum-Sha256"
	headerSums   = "X-Amz-Checksum-Algorithm"
)

// putOptions are those of a request that makes an object.
func putOptions(header, value string) minio.PutObjectOptions {
	return minio.PutObjectOptions{
		ContentType:  "application/octet-stream",
		UserMetadata: map[string]string{header: value},
		// The sum of the body stands in a header and is signed. A body that is signed piece
		// by piece, which is what the library does otherwise, costs another SHA-256, and
		// some stores refuse a sum in a trailer.
		DisableContentSha256: true,
	}
}

// Put creates an object.
func (s *S3) Put(ctx context.Context, key string, b Body) (string, error) {
	o := putOptions(headerSHA256, base64.StdEncoding.EncodeToString(b.SHA256[:]))
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
	body, _, header, err := s.core.GetObject(ctx, s.bucket, key, o)
	if err != nil {
		if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return 0, io.EOF
		}
		return 0, s.failure(err, key)
	}
	defer body.Close()
	want, err := rangeOf(header.Get("Content-Range"), off, len(p))
	if err != nil {
		return 0, Temporary(fmt.Errorf("%s: %w", key, err))
	}
	n, err := io.ReadFull(body, p[:want])
	if err != nil {
		return n, Temporary(fmt.Errorf("%s: %w", key, err))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// rangeOf returns how many bytes an answer must hold that says "bytes 0-99/1234", if n at
// off were asked for. One that does not say so may be anything: the whole object, or a page
// that tells of an error.
func rangeOf(answer string, off int64, n int) (int, error) {
	var first, last, size int64
	if k, err := fmt.Sscanf(answer, "bytes %d-%d/%d", &first, &last, &size); k != 3 || err != nil {
		return 0, fmt.Errorf("%d bytes at %d were asked for, and the answer does not say which it has (%q)", n, off, answer)
	}
	if first != off || last != min(off+int64(n), size)-1 || last < first {
		return 0, fmt.Errorf("%d bytes at %d were asked for, and the answer has %q", n, off, answer)
	}
	return int(last - first + 1), nil
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
	if until, err := time.Parse(time.RFC3339, i.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")); err == nil {
		o.Until = until
	}
	text, count, parts := strings.Cut(i.ChecksumSHA256, "-")
	sum, err := base64.StdEncoding.DecodeString(text)
	switch {
	case err != nil || len(sum) != len(Sum{}):
	case !parts:
		o.SHA256 = Sum(sum)
	case count != "": // its number of parts
		o.PartSums = Sum(sum)
	}
	return o
}

// List calls fn for every object whose key begins with prefix and comes after a key.
func (s *S3) List(ctx context.Context, prefix, after string, fn func(Object) error) error {
	owner := false
	o := minio.ListObjectsOptions{Prefix: prefix, StartAfter: after, Recursive: true, MaxKeys: 1000, FetchOwner: &owner}
	for info := range s.core.ListObjectsIter(ctx, s.bucket, o) {
		if info.Err != nil {
			return s.failure(info.Err, prefix)
		}
		if err := fn(object(info)); err != nil {
			return err
		}
	}
	return ctx.Err()
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
