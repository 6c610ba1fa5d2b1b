package s3sync_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/s3sync"
)

// The same as TestLivingFaults, of a real server and over HTTP: each request of a save fails in
// each way, once or for ever. What was there stays whole, a success is one, and the next run
// completes.
func TestLivingHTTPFaultMatrix(t *testing.T) {
	c, o := startCrooked(t, startGateway(t))
	store, err := s3sync.NewS3(o)
	if err != nil {
		t.Fatal(err)
	}
	patient := &s3sync.Patient{Objects: store, Tries: 3, Pause: time.Millisecond, Timeout: 2 * time.Second, Slowest: 1 << 30}
	first, second := repotest.NewSave("first", 20), repotest.NewSave("second", 20)
	ran, requests := 0, int64(0)
	for k := int64(0); k == 0 || k < requests; k++ {
		for how, forever := range spoiled(k) {
			ran++
			what := fmt.Sprintf("request %d: %s, for ever: %v", k+1, how, forever)
			b := &s3sync.Bucket{Prefix: fmt.Sprintf("living%d/", ran), Check: s3sync.Trust(), Objects: patient}
			dir := t.TempDir()
			patient.Timeout = time.Minute
			if err := saveLive(live(t, b, dir), "refs/heads/etc", first); err != nil {
				t.Fatal(err)
			}
			if how == failTimeout {
				patient.Timeout = 300 * time.Millisecond
			}
			c.how, c.forever = how, forever
			c.calls.Store(0)
			c.at.Store(k + 1)
			p, err := tryLive(t, b, dir)
			if err == nil {
				err = saveLive(p, "refs/heads/etc", second)
			}
			c.at.Store(0)
			patient.Timeout = time.Minute
			requests = max(requests, c.calls.Load())
			checkLive(t, b, first.IDs())
			both := append(first.IDs(), append(second.Blobs, second.Tree)...)
			if err != nil {
				named(t, what, err)
			} else {
				checkLive(t, b, both)
			}
			if err != nil && !forever && how != failWrong && how != fail412 {
				t.Errorf("%s: one failure is too many: %v", what, err)
			}
			if err := saveLive(live(t, b, dir), "refs/heads/etc", second); err != nil {
				t.Fatalf("%s: the next run: %v", what, err)
			}
			checkLive(t, b, both)
		}
	}
	t.Logf("%d requests, %d runs", requests, ran)
}
