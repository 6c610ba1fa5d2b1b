package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

const metaHelp = `Meta keeps metadata without contents: owners, modes, times, ACLs, attributes.

    meta -c PATH...         write an archive of what is at and below each PATH
    meta -t                 list an archive; -tv as ls -l, -tvv all there is
    meta -x                 make what an archive lists, empty, and give it its metadata
    meta --start-extract    only make it
    meta --finish-extract   only give it its metadata
    meta --edit ARCHIVE...  write archives with other owners

An archive is read from standard input and written to standard output unless -f says
otherwise. What is made goes below the working directory, whatever the paths are; a file
that is there is left as it is and gets its metadata, and no symbolic link is followed.
'cat-file --meta' and '--bupm' of what was saved can be listed, too.`

const metaExample = `  kedge meta -c -f etc.meta /etc
  kedge meta -tvv -f etc.meta
  kedge cat-file --bupm web1/latest/etc | kedge meta -tv`

// metaOptions is the options of meta.
type metaOptions struct {
	create, list, extract, start, finish, edit bool

	file                     string
	recurse, symlinks, paths bool
	oneFileSystem, numeric   bool
	setUID, setGID           string
	setUser, setGroup        string
	unsetUser, unsetGroup    bool
	editUID, editGID         int64
}

func (a *app) metaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "meta -c|-t|-x|--start-extract|--finish-extract|--edit [-f FILE] [PATH...]",
		Short:   "keep and show metadata alone",
		Long:    metaHelp,
		Example: metaExample,
	}
	var o metaOptions
	f := cmd.Flags()
	f.BoolVarP(&o.create, "create", "c", false, "write an archive of the PATHs")
	f.BoolVarP(&o.list, "list", "t", false, "list an archive")
	f.BoolVarP(&o.extract, "extract", "x", false, "make what an archive lists, with its metadata")
	f.BoolVar(&o.start, "start-extract", false, "make what an archive lists")
	f.BoolVar(&o.finish, "finish-extract", false, "give what is there the metadata of an archive")
	f.BoolVar(&o.edit, "edit", false, "write archives anew, with other owners")
	f.StringVarP(&o.file, "file", "f", "", "read or write the archive `FILE`")
	f.BoolVarP(&o.recurse, "recurse", "R", true, "with -c: what is below directories, too")
	f.BoolVar(&o.oneFileSystem, "xdev", false, "do not enter other file systems")
	f.BoolVar(&o.oneFileSystem, "one-file-system", false, "")
	f.Lookup("one-file-system").Hidden = true
	f.BoolVar(&o.numeric, "numeric-ids", false, "owners are those of the numbers, not of the names")
	f.BoolVar(&o.symlinks, "symlinks", true, "symbolic links, too")
	f.BoolVar(&o.paths, "paths", true, "with -c: record the paths")
	f.StringVar(&o.setUID, "set-uid", "", "with --edit: the owner is `UID`")
	f.StringVar(&o.setGID, "set-gid", "", "with --edit: the group is `GID`")
	f.StringVar(&o.setUser, "set-user", "", "with --edit: the owner is called `NAME`")
	f.StringVar(&o.setGroup, "set-group", "", "with --edit: the group is called `NAME`")
	f.BoolVar(&o.unsetUser, "unset-user", false, "with --edit: the owner has no name")
	f.BoolVar(&o.unsetGroup, "unset-group", false, "with --edit: the group has no name")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if err := o.check(args); err != nil {
			return err
		}
		switch {
		case o.create:
			return a.writeArchive(o.file, func(w io.Writer) error { return a.metaCreate(ctx, w, &o, args) })
		case o.edit:
			return a.writeArchive(o.file, func(w io.Writer) error { return a.metaEdit(ctx, w, &o, args) })
		case o.list:
			return a.readArchive(o.file, func(r io.Reader) error { return a.metaList(ctx, r, &o) })
		}
		return a.readArchive(o.file, func(r io.Reader) error { return a.metaExtract(ctx, r, &o) })
	})
}

// check says what is wrong with the options.
func (o *metaOptions) check(args []string) (err error) {
	n := 0
	for _, on := range []bool{o.create, o.list, o.extract, o.start, o.finish, o.edit} {
		if on {
			n++
		}
	}
	switch {
	case n == 0:
		return usagef("meta needs to be told what to do: -c, -t, -x, --start-extract, --finish-extract or --edit")
	case n > 1:
		return usagef("-c, -t, -x, --start-extract, --finish-extract and --edit exclude each other")
	case (o.create || o.edit) && len(args) == 0:
		return usagef("meta -c and --edit need a PATH")
	case !o.create && !o.edit && len(args) > 0:
		return usagef("meta takes paths with -c and --edit only; -f FILE names an archive")
	}
	for _, id := range []struct {
		option, text string
		to           *int64
	}{{"set-uid", o.setUID, &o.editUID}, {"set-gid", o.setGID, &o.editGID}} {
		if id.text == "" {
			continue
		}
		if *id.to, err = strconv.ParseInt(id.text, 10, 64); err != nil || *id.to < 0 || *id.to > 1<<32-2 {
			return usagef("option --%s: %s is no id", id.option, quote(id.text))
		}
	}
	return nil
}

// writeArchive lets fn write to a file, or to standard output.
func (a *app) writeArchive(file string, fn func(io.Writer) error) error {
	if a.common.json {
		return usagef("meta writes bytes, not JSON")
	}
	if file == "" || file == "-" {
		return fn(a.out)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = fn(w)
	if ferr := w.Flush(); err == nil || errors.As(err, new(*partialError)) && ferr != nil {
		err = ferr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// readArchive lets fn read a file, or standard input.
func (a *app) readArchive(file string, fn func(io.Reader) error) error {
	if file == "" || file == "-" {
		return fn(a.Stdin)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return fn(f)
}

// eachMeta calls fn for each entry of an archive. Entries without anything in them, which
// stand for metadata that were lost, are passed over.
func eachMeta(ctx context.Context, r io.Reader, fn func(*meta.Meta) error) error {
	var buf []byte
	at, off, eof := 0, int64(0), false
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if at == len(buf) && eof {
			return nil
		}
		m, rest, err := meta.Parse(buf[at:])
		if err == nil && at < len(buf) {
			off += int64(len(buf) - at - len(rest))
			at = len(buf) - len(rest)
			if m.Mode == 0 {
				continue
			}
			if err := fn(&m); err != nil {
				return err
			}
			continue
		}
		if at < len(buf) && (eof || !errors.Is(err, meta.ErrTruncated) || len(buf)-at >= meta.MaxEntry) {
			return &pack.CorruptError{File: "archive of metadata", Off: off, Reason: err.Error()}
		}
		buf, at = append(buf[:0], buf[at:]...), 0
		have := len(buf)
		buf = append(buf, make([]byte, have+64<<10)...)
		n, err := io.ReadFull(r, buf[have:])
		buf = buf[:have+n]
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			eof = true
		} else if err != nil {
			return err
		}
	}
}

// archivePath returns the form of a path that an archive records: one that leads nowhere
// else when it is made below a directory.
func archivePath(path string) string {
	for {
		switch {
		case strings.HasPrefix(path, "/"), strings.HasPrefix(path, "./"):
			path = path[strings.Index(path, "/")+1:]
		case strings.HasPrefix(path, "../"):
			path = path[3:]
		default:
			if i := strings.LastIndex(path, "/../"); i >= 0 { // a/../b: what is before it does not count
				path = path[i+4:]
				continue
			}
			if path == "" || path == ".." {
				return "."
			}
			return path
		}
	}
}

// metaCreate writes an archive.
func (a *app) metaCreate(ctx context.Context, w io.Writer, o *metaOptions, args []string) error {
	var names meta.Names
	failed := int64(0)
	add := func(path string, _ bool) error {
		m, err := readMeta(path, &names)
		if err != nil {
			a.ui.warn(path, err)
			failed++
			return nil
		}
		if m.Type() == meta.TypeSymlink && !o.symlinks {
			return nil
		}
		if o.paths {
			m.Path = archivePath(path)
		}
		_, err = w.Write(m.Append(nil))
		return err
	}
	for _, path := range args {
		d := descent{a: a, ctx: ctx, oneFileSystem: o.oneFileSystem}
		walk := d.walk
		if !o.recurse {
			walk = d.only
		}
		err := walk(path, func(path string, dir bool) error {
			if a.common.verbose > 0 {
				a.ui.raw([]byte(escape(path) + "\n"))
			}
			return add(path, dir)
		})
		if err != nil {
			return err
		}
		failed += d.failed
	}
	return unreadable(failed)
}

// only is walk without what is below.
func (d *descent) only(path string, fn func(path string, dir bool) error) error {
	abs, err := sourcePath(path)
	if err != nil {
		return err
	}
	info, err := d.a.FS.Lstat(abs)
	switch {
	case err != nil:
		d.fail(path, err)
		return nil
	case info.IsDir():
		return fn(strings.TrimRight(path, "/")+"/", true)
	}
	return fn(path, false)
}

// metaEdit writes archives with other owners.
func (a *app) metaEdit(ctx context.Context, w io.Writer, o *metaOptions, args []string) error {
	for _, file := range args {
		err := a.readArchive(file, func(r io.Reader) error {
			return eachMeta(ctx, r, func(m *meta.Meta) error {
				o.alter(m)
				_, err := w.Write(m.Append(nil))
				return err
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// alter gives an entry the owners that the options say.
func (o *metaOptions) alter(m *meta.Meta) {
	if o.setUID != "" {
		m.UID = o.editUID
	}
	if o.setGID != "" {
		m.GID = o.editGID
	}
	if o.setUser != "" || o.unsetUser {
		m.User = o.setUser
	}
	if o.setGroup != "" || o.unsetGroup {
		m.Group = o.setGroup
	}
}

// metaList lists an archive: paths, with -v lines as of ls, with -vv blocks.
func (a *app) metaList(ctx context.Context, r io.Reader, o *metaOptions) error {
	said := false
	format := lsFormat{long: true, numeric: o.numeric}
	return eachMeta(ctx, r, func(m *meta.Meta) error {
		var b []byte
		switch {
		case a.common.verbose > 1:
			if said {
				b = append(b, '\n')
			}
			b = (&metaFormat{}).append(b, a, m)
		case a.common.verbose == 1:
			row := lsRow{name: m.Path, mode: m.Mode, meta: m, size: max(0, m.Size), target: m.Symlink}
			b = append(format.append(b, a, &row), '\n')
		case m.Path == "":
			return withHint(fmt.Errorf("the archive has no paths to list"), "-tv shows what it has")
		default:
			b = append(a.appendName(b, m.Path), '\n')
		}
		said = true
		return a.print(b)
	})
}
