package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
)

const tickHelp = `Tick waits until the next second begins. Times of files of two seconds differ on any file
system.`

func (a *app) tickCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tick",
		Short:   "wait for the next second, for tests",
		Long:    tickHelp,
		Example: "  kedge tick",
		Args:    cobra.NoArgs,
		Hidden:  true,
	}
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		now := a.now()
		wait := time.NewTimer(now.Truncate(time.Second).Add(time.Second).Sub(now))
		defer wait.Stop()
		select {
		case <-wait.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

const memtestHelp = `Memtest looks for objects in the repository, N in each of C cycles, and prints after each
how much memory that takes (MiB), how many pages had to be read, and the milliseconds.`

// probing are the options of memtest.
type probing struct {
	number, cycles int
	existing       bool
}

func (a *app) memtestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "memtest [-n N] [-c C] [--existing]",
		Short:   "tell what looking for objects costs, for tests",
		Long:    memtestHelp,
		Example: "  kedge memtest -n 1000 -c 5",
		Args:    cobra.NoArgs,
		Hidden:  true,
	}
	var o probing
	f := cmd.Flags()
	f.IntVarP(&o.number, "number", "n", 10000, "look for `N` objects in a cycle")
	f.IntVarP(&o.cycles, "cycles", "c", 100, "do so `C` times")
	f.BoolVar(&o.existing, "existing", false, "look for objects that are there")
	f.Bool("ignore-midx", false, "accepted; nothing changes")
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		if o.number < 1 || o.cycles < 0 || o.number > 1<<24 {
			return usagef("memtest needs numbers above 0")
		}
		return a.memtest(ctx, o)
	})
}

func (a *app) memtest(ctx context.Context, o probing) error {
	r, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer a.closeRepo(r)
	var there []pack.ID
	if o.existing {
		if there, err = someObjects(ctx, r, o.number); err != nil {
			return err
		}
	}
	start := time.Now()
	before := usage()
	b := fmt.Appendf(nil, "%9s  %10s %10s %10s %10s %10s \n", "", "RSS", "MajFlt", "user", "sys", "ms")
	line := func(n int, since time.Time) {
		now := usage()
		b = fmt.Appendf(b, "%9d  %10d %10d %10d %10d %10d \n", n, now.Maxrss/1024, now.Majflt-before.Majflt,
			millis(now.Utime)-millis(before.Utime), millis(now.Stime)-millis(before.Stime), time.Since(since).Milliseconds())
		before = now
	}
	line(0, start)
	ids := make([]pack.ID, o.number)
	for cycle := range o.cycles {
		since := time.Now()
		for i := range ids {
			if len(there) > 0 {
				ids[i] = there[(cycle*o.number+i)%len(there)]
				continue
			}
			ids[i] = pack.Sum(pack.Blob, binary.BigEndian.AppendUint64(nil, uint64(cycle*o.number+i)))
		}
		if _, err := r.Missing(ctx, nil, ids); err != nil {
			return err
		}
		line((cycle+1)*o.number, since)
	}
	b = fmt.Appendf(b, "Total time: %.3fs\n", time.Since(start).Seconds())
	return a.print(b)
}

func usage() (u syscall.Rusage) {
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u
}

func millis(t syscall.Timeval) int64 { return int64(t.Sec)*1000 + int64(t.Usec)/1000 }
