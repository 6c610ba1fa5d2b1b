package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// configuredServer returns the section [server] of the config file, nil if there is none. A
// file that this user may not read is somebody else's.
func (a *app) configuredServer() (*job.Server, error) {
	file := a.configFile("")
	if !a.exists(file) {
		return nil, nil
	}
	s, err := job.LoadServer(a.FS, file)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return s, configError(err)
}

// isRootOf reports whether a directory is the root of a configured server, by whatever name.
func isRootOf(s *job.Server, root string) bool {
	if s == nil {
		return false
	}
	want := filepath.Clean(s.Root)
	if want == root {
		return true
	}
	x, err := filepath.EvalSymlinks(want)
	y, yerr := filepath.EvalSymlinks(root)
	return err == nil && yerr == nil && x == y
}

// A disk that is so full is no longer fit for a night: saves fail for want of room, and gc
// needs some to free any.
const (
	leastSpace = 1 << 30 // bytes
	leastShare = 5       // percent
)

// spaceOf reports a file system that is nearly full.
func spaceOf(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	free, all := int64(st.Bavail)*int64(st.Bsize), int64(st.Blocks)*int64(st.Bsize)
	if free < leastSpace && free < all/100*leastShare {
		return fmt.Errorf("space: %s is nearly full: %s of %s are free", dir, formatSize(free), formatSize(all))
	}
	if st.Files > 0 && st.Ffree < st.Files/100 {
		return fmt.Errorf("space: %s is nearly out of inodes: %d of %d are free", dir, st.Ffree, st.Files)
	}
	return nil
}

// oldest is a time that any clock which is right has passed.
var oldest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// checkClock reports a clock that cannot be right.
func (a *app) checkClock() error {
	if now := a.now(); now.Before(oldest) {
		return fmt.Errorf("clock: it says %s", now.Format(time.RFC3339))
	}
	return nil
}

// checkServer looks at the world of a server.
func (a *app) checkServer(ctx context.Context, s *job.Server) (problems []error) {
	if s == nil {
		return nil
	}
	info, err := os.Stat(s.Root)
	switch {
	case err != nil:
		problems = append(problems, fmt.Errorf("server.root: %w", err))
	case !info.IsDir():
		problems = append(problems, fmt.Errorf("server.root: %s is no directory", s.Root))
	default:
		if open := info.Mode().Perm() & 0o022; open != 0 {
			problems = append(problems, fmt.Errorf("server.root: others may write to %s (mode %04o)", s.Root, info.Mode().Perm()))
		}
		if err := spaceOf(s.Root); err != nil {
			problems = append(problems, err)
		}
		problems = append(problems, a.checkRepositories(ctx, s)...)
	}
	for _, file := range []string{s.AuthorizedKeys, s.HostKey} {
		if file != "" && !a.exists(file) {
			problems = append(problems, fmt.Errorf("server: there is no %s", file))
		}
	}
	if s.User != "" {
		if _, err := user.Lookup(s.User); err != nil {
			problems = append(problems, fmt.Errorf("server.user: %w", err))
		}
	}
	if n := s.Notify; n != nil && n.Textfile != "" && !a.exists(n.Textfile) {
		problems = append(problems, fmt.Errorf("server.notify.textfile: there is no %s", n.Textfile))
	}
	if err := a.checkMirror(ctx, s); err != nil {
		problems = append(problems, fmt.Errorf("server.mirror: %w", err))
	}
	return problems
}

// checkRepositories opens those that there are, and compares their time with the clock.
func (a *app) checkRepositories(ctx context.Context, s *job.Server) (problems []error) {
	names, err := job.Repositories(a.FS, s.Root)
	if err != nil {
		return []error{err}
	}
	for _, name := range names {
		p, err := repo.OpenDir(ctx, filepath.Join(s.Root, name), repo.DirOptions{FS: a.FS, ReadOnly: true})
		if err != nil {
			problems = append(problems, err)
			continue
		}
		last, err := p.LastReceipt(ctx)
		_ = p.Close()
		switch ahead := last.Sub(a.now()); {
		case err != nil:
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		case ahead > time.Minute:
			problems = append(problems, fmt.Errorf("clock: the last save of %s came %s from now", name, job.Span(ahead)))
		}
	}
	return problems
}

// checkMirror asks the store for what is there.
func (a *app) checkMirror(ctx context.Context, s *job.Server) error {
	if s.Mirror == nil {
		return nil
	}
	at, err := parseBucket(s.Mirror.To)
	if err != nil {
		return err
	}
	defer func(before world, store store) { a.world, a.common.store = before, store }(a.world, a.common.store)
	a.reachMirror(s.Mirror)
	objects, err := a.objects(at)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err = s3sync.Names(ctx, objects, at.prefix)
	return err
}

// reachMirror has what the config says of a store count, where the command line says
// nothing.
func (a *app) reachMirror(m *job.Mirror) {
	if a.common.store.endpoint == "" {
		a.common.store.endpoint = m.Endpoint
	}
	if a.common.store.region == "" {
		a.common.store.region = m.Region
	}
	if m.Profile == "" {
		return
	}
	env := a.Env
	a.Env = func(name string) string {
		if name == "AWS_PROFILE" {
			return m.Profile
		}
		return env(name)
	}
}
