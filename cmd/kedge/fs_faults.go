//go:build faults

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
)

// fileSystem is the file system with one fault in it: the build of the fault
// sweeps (internal/e2e), never a release. KEDGE_FAULT is KIND:K, for the K-th operation
// that changes anything: kill-before, kill-after, eio, enospc, eio-forever.
// A fault that was an error is told of on standard error.
func fileSystem() *fsx.FS {
	kind, at, ok := strings.Cut(os.Getenv("KEDGE_FAULT"), ":")
	k, err := strconv.Atoi(at)
	if !ok || err != nil {
		return &fsx.FS{}
	}
	plan := fault.Plan{Match: fault.Mutates}
	switch kind {
	case "kill-before", "kill-after":
		return &fsx.FS{Intercept: (&fault.Kill{At: k, After: kind == "kill-after", Match: fault.Mutates}).Intercept}
	case "enospc":
		plan.Err, plan.Short = syscall.ENOSPC, true
	case "eio":
		plan.Drop = true
	case "eio-forever":
		plan.Forever = true
	}
	fail := plan.At(k)
	var once sync.Once
	return &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		err := fail.Intercept(op, do)
		if fail.Fired() {
			once.Do(func() { fmt.Fprintf(os.Stderr, "fault: %s %s\n", fail.Op().Kind, fail.Op().Path) })
		}
		return err
	}}
}
