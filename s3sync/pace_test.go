package s3sync

import (
	"testing"
	"time"
)

// What is sent stays within the rate over any time, and what was not used is not made up for.
func TestPace(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	p := &pace{perSecond: 1000}
	for i, c := range []struct {
		after time.Duration
		n     int
		wait  time.Duration
	}{
		{0, 500, 0},                                       // sent from 0 to 0.5 s
		{0, 1000, 500 * time.Millisecond},                 // to 1.5 s
		{500 * time.Millisecond, 100, time.Second},        // to 1.6 s
		{10 * time.Second, 3000, 0},                       // long after
		{time.Second, 1, 2 * time.Second},                 // to 3.001 s after that
		{2500 * time.Millisecond, 1, 0},                   // all was sent
		{time.Millisecond / 2, 1, 500 * time.Microsecond}, // half of a byte's time later
		{time.Duration(0), 0, 1500 * time.Microsecond},    // nothing waits, too, and takes nothing
		{time.Duration(0), 1, 1500 * time.Microsecond},    //
		{time.Hour, 1 << 30, 0}, {0, 1, (1 << 30) * time.Millisecond},
	} {
		now = now.Add(c.after)
		if wait := p.delay(now, c.n); wait != c.wait {
			t.Errorf("step %d: wait %v, not %v", i, wait, c.wait)
		}
	}
	if wait := new(pace).delay(now, 1<<40); wait != 0 {
		t.Errorf("without a limit: %v", wait)
	}
}
