package s3sync_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/s3sync"
)

// crooked stands in front of an S3 server and spoils one request, or all from one on.
type crooked struct {
	to      *url.URL
	at      atomic.Int64 // which; 0: none
	forever bool
	how     string
	calls   atomic.Int64
	done    chan struct{}
}

// startCrooked starts one in front of a server.
func startCrooked(t testing.TB, o s3sync.S3Options) (*crooked, s3sync.S3Options) {
	t.Helper()
	to, err := url.Parse(o.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	c := &crooked{to: to, done: make(chan struct{})}
	s := httptest.NewServer(c)
	t.Cleanup(func() { close(c.done); s.Close() })
	o.Endpoint = s.URL
	return c, o
}

// answers are errors that a store tells: status, code.
var answers = map[string]struct {
	status int
	code   string
}{
	failInternal: {500, "InternalError"}, failSlowDown: {503, "SlowDown"}, failError200: {200, "InternalError"},
	fail412: {412, "PreconditionFailed"}, fail409: {409, "ConditionalRequestConflict"},
}

func (c *crooked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k, at := c.calls.Add(1), c.at.Load()
	if at == 0 || k != at && (!c.forever || k < at) {
		c.pass(w, r, "")
		return
	}
	if a, ok := answers[c.how]; ok {
		_, _ = io.Copy(io.Discard, r.Body)
		text := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>`+"\n<Error><Code>%s</Code><Message>spoilt</Message></Error>", a.code)
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, text)
		return
	}
	switch c.how {
	case failTimeout:
		select {
		case <-r.Context().Done():
		case <-c.done: // a line that was cut while a body came is not noticed before that is read
		}
	case failReset:
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	default:
		c.pass(w, r, c.how)
	}
}

// pass passes a request on, and the answer back.
func (c *crooked) pass(w http.ResponseWriter, r *http.Request, how string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if how == failWrong && len(body) > 0 {
		body[len(body)/2] ^= 1
	}
	u := *r.URL
	u.Scheme, u.Host = c.to.Scheme, c.to.Host
	out, err := http.NewRequestWithContext(r.Context(), r.Method, u.String(), bytes.NewReader(body))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	out.Header, out.Host, out.ContentLength = r.Header.Clone(), r.Host, int64(len(body))
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || how == failLost {
		panic(http.ErrAbortHandler)
	}
	if how == failWrong && len(text) > 0 {
		text[len(text)/2] ^= 1
	}
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if how == failTruncated {
		_, _ = w.Write(text[:len(text)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(text)
}

// The same as TestMirrorFaultMatrix, of a real server and over HTTP.
func TestMirrorHTTPFaultMatrix(t *testing.T) { kinds(t, testMirrorHTTPFaultMatrix) }

func testMirrorHTTPFaultMatrix(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	c, o := startCrooked(t, startGateway(t))
	store, err := s3sync.NewS3(o)
	if err != nil {
		t.Fatal(err)
	}
	patient := &s3sync.Patient{Objects: store, Tries: 3, Pause: time.Millisecond, Timeout: 2 * time.Second, Slowest: 1 << 30}
	bucket := func(prefix string) *s3sync.Bucket {
		return lock(&s3sync.Bucket{Prefix: prefix, Check: s3sync.Trust(), Objects: patient})
	}
	var beside []pack.Entry
	r := rand.NewChaCha8([32]byte{1})
	for range 11 {
		data := make([]byte, 1<<20)
		_, _ = r.Read(data)
		beside = append(beside, repotest.Entry(pack.Blob, data))
	}
	w := newSweep(t, bucket("count/"), beside...)
	c.calls.Store(0)
	if r, err := w.mirror(bucket("count/"), t.TempDir()); err != nil || r.Generation != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	requests, ran := c.calls.Load(), 0
	w.whole("count", bucket("count/"))
	first := generationOne(t, store, "count/")
	for k := range requests {
		for how, forever := range spoiled(k) {
			ran++
			what := fmt.Sprintf("request %d: %s, for ever: %v", k+1, how, forever)
			b := bucket(fmt.Sprintf("run%d/", ran))
			first.put(t, store, b.Prefix)
			patient.Timeout = time.Minute
			if how == failTimeout && forever {
				patient.Timeout = 300 * time.Millisecond
			} else if how == failTimeout {
				patient.Timeout = 5 * time.Second // the other requests have to make it
			}
			state := t.TempDir()
			c.how, c.forever = how, forever
			c.calls.Store(0)
			c.at.Store(k + 1)
			_, err := w.mirror(b, state)
			c.at.Store(0)
			if err != nil {
				named(t, what, err)
			}
			if err != nil && !forever && how != failWrong && how != fail412 {
				t.Errorf("%s: one failure is too many: %v", what, err)
			}
			w.whole(what, b)
			if r, err := w.mirror(b, state); err != nil || r.Generation < 2 {
				t.Fatalf("%s: the next run: %+v, %v", what, r, err)
			}
			w.whole(what+", then the next run", b)
			first.remove(t, store, b.Prefix)
		}
	}
	t.Logf("%d requests, %d runs", requests, ran)
}

// spoiled goes through the ways in which request k fails, once and for ever: a sample of them,
// unless the sweep is a full one.
func spoiled(k int64) iter.Seq2[string, bool] {
	return func(yield func(string, bool) bool) {
		for i, how := range failures {
			if !full && (how == failTimeout || (int(k)+i)%24 != 0) {
				continue
			}
			if !yield(how, false) || !yield(how, true) {
				return
			}
		}
	}
}

// copies are the objects of a generation, by their keys below a prefix.
type copies map[string][]byte

// generationOne returns the objects of generation 1 and nothing that came later.
func generationOne(t *testing.T, s s3sync.Objects, prefix string) copies {
	t.Helper()
	ctx := context.Background()
	b := &s3sync.Bucket{Prefix: prefix, Objects: s}
	g, err := b.At(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	all := copies{}
	keys := []string{fmt.Sprintf("manifests/%016x", ^uint64(1)), fmt.Sprintf("bases/%016x", ^uint64(1))}
	for _, f := range g.Files {
		keys = append(keys, f.Key)
	}
	for _, key := range keys {
		if all[key], err = s3sync.ReadAll(ctx, s, prefix+key, "", 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func (c copies) put(t *testing.T, s s3sync.Objects, prefix string) {
	t.Helper()
	for key, data := range c {
		if _, err := s.Put(context.Background(), prefix+key, bodyOf(data)); err != nil {
			t.Fatal(err)
		}
	}
}

// remove makes room for the next run.
func (c copies) remove(t *testing.T, s s3sync.Objects, prefix string) {
	t.Helper()
	ctx := context.Background()
	var keys []string
	err := s.List(ctx, prefix, "", func(o s3sync.Object) error { keys = append(keys, o.Key); return nil })
	for _, key := range keys {
		err = errors.Join(err, s.Delete(ctx, key, ""))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What a store answers that is no answer to what was asked is no data.
func TestStrangeAnswers(t *testing.T) {
	var answer func(w http.ResponseWriter)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		answer(w)
	}))
	defer server.Close()
	s, err := s3sync.NewS3(s3sync.S3Options{Bucket: "backup", Endpoint: server.URL, Region: "us-east-1", PathStyle: true, Credentials: testKeys()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	reply := func(status int, text string, head ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for i := 0; i < len(head); i += 2 {
				w.Header().Set(head[i], head[i+1])
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	const failed = "<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code><Message>m</Message></Error>"
	get := func() error {
		_, err := s.Get(ctx, "k", "", make([]byte, 10), 5)
		return err
	}
	put := func() error {
		_, err := s.Put(ctx, "k", bodyOf([]byte("x")))
		return err
	}
	list := func() error { return s.List(ctx, "p/", "", func(s3sync.Object) error { return nil }) }
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter)
		do     func() error
	}{
		{"get: the whole object", reply(200, strings.Repeat("x", 30), "Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT"), get},
		{"get: an error in a 200", reply(200, failed, "Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT"), get},
		{"get: other bytes", reply(206, "0123456789", "Content-Range", "bytes 0-9/30", "Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT"), get},
		{"get: fewer bytes than there are", reply(206, "01234", "Content-Range", "bytes 5-9/30", "Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT"), get},
		{"get: more bytes are told than come", reply(206, "01234", "Content-Range", "bytes 5-14/30", "Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT"), get},
		{"put: an error in a 200", reply(200, failed), put},
		{"put: a wrong checksum", reply(400, strings.Replace(failed, "InternalError", "BadDigest", 1)), put},
		{"list: an error in a 200", reply(200, failed), list},
		{"list: cut short", reply(200, "<?xml version=\"1.0\"?>\n<ListBucketResult><Name>backup</Na"), list},
		{"list: no XML", reply(200, "hello"), list},
		{"list: throttled", reply(429, ""), list},
		{"list: a gateway", reply(502, "<html>"), list},
	} {
		answer = c.answer
		if err := c.do(); !s3sync.IsTemporary(err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
