package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/repo/save"
)

// This file is the streams of jobs as a save takes them.

// jobStream returns a stream of a job as the save takes it.
func (a *app) jobStream(s *job.Stream) save.Stream {
	return save.Stream{Path: s.Path, Open: func(ctx context.Context) (io.ReadCloser, error) {
		if s.Preset == "device" && s.RunAs == "" && len(s.Args) == 0 {
			return openImage(s.File)
		}
		what, err := s.Prepare(a.FS)
		if err != nil {
			return nil, err
		}
		p, err := startProducer(ctx, what, a.Stderr)
		if err != nil {
			what.Close()
			return nil, err
		}
		return &dump{p, what}, nil
	}}
}

// dump is a producer whose secret is given up at its end.
type dump struct {
	*producer
	what *job.Prepared
}

// Close waits for the command.
func (d *dump) Close() error {
	defer d.what.Close()
	return d.producer.Close()
}

// openImage opens a block device or the image of one. Of an image the holes are jumped over; of
// a device all is read, and long runs of zeros are not worked on.
func openImage(file string) (io.ReadCloser, error) {
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, err
	case info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0:
		return os.Open(file)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: neither a block device nor a file", quote(file))
	}
	dir, err := fsx.OpenDir(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	src, st, err := dir.OpenFile(filepath.Base(file))
	if err != nil {
		return nil, err
	}
	return &image{src, st}, nil
}

// image is the image of a device that is being saved.
type image struct {
	*fsx.Source
	then fsx.Stat
}

// Close refuses an image that changed while it was read: what was read of it is nothing that
// it ever was. Who needs that has to save a snapshot.
func (i *image) Close() error {
	defer i.Source.Close()
	now, err := i.Stat()
	if err == nil && (now.Size != i.then.Size || now.Mtime != i.then.Mtime) {
		err = errors.New("it changed while it was read")
	}
	return err
}
