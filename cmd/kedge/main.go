// Command kedge is a deduplicating backup engine on a plain git repository.
//
// One command is one file, with its help on top. app.go runs them, bupargs.go
// reads the command line, exit.go maps errors to exit codes, tui.go holds the
// rules of what is printed where, open.go turns an address into a repository.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/term"
)

func main() {
	limitMemory()
	ctx, stop := interruptible(context.Background())
	code := run(ctx, os.Args, world{
		Stdin:    os.Stdin,
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Env:      os.Getenv,
		FS:       fileSystem(),
		Terminal: terminalWidth,
	})
	stop()
	os.Exit(code)
}

// limitMemory keeps the process within 200 MiB (I7). The buffers of a save are
// bounded, but between two collections garbage may double them: the limit makes
// the collector run more often as it comes near. Whoever sets GOGC or GOMEMLIMIT
// decides instead.
func limitMemory() {
	const limit = 150 << 20 // of what the runtime manages; text, stacks of C and page tables come on top
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// interruptible returns a context that the first SIGINT, SIGTERM or SIGHUP
// cancels. A second one ends the process at once: whatever it does then, the
// repository stays whole, because it can be killed at any time (I5). A signal
// that was ignored when the process began stays ignored (nohup).
//
// SIGPIPE is taken too, and dropped: a save must not die because the reader of
// its messages did. A write to a closed pipe fails with EPIPE instead.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ch := make(chan os.Signal, 2)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(ch, s)
		}
	}
	go func() {
		<-ch
		cancel()
		<-ch
		os.Exit(exitInterrupted)
	}()
	return ctx, cancel
}

// terminalWidth returns the number of columns of the terminal that f is, or 0.
func terminalWidth(f any) int {
	file, ok := f.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil || width < 20 {
		return 80
	}
	return width
}
