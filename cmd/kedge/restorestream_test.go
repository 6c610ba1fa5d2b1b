package main

import (
	"context"
	"strings"
	"testing"
)

// A terminal gets no dump.
func TestRestoreStreamTerminal(t *testing.T) {
	u := newPerson(t)
	u.do("init")
	u.do("save -n x --stdin-name .streams/s --from-command date")
	u.width = 80
	out, err, code := u.run(context.Background(), "restore-stream x/latest/s")
	if code != exitUsage || out != "" || !strings.Contains(err, "standard output is a terminal") {
		t.Errorf("exit %d: %q %q", code, out, err)
	}
	u.width = 0
	if out, _ := u.do("restore-stream x/latest/s"); len(out) < 10 {
		t.Errorf("%q", out)
	}
}
