package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/pack"
)

const listIdxHelp = `List-idx prints the ids of the objects in IDX files, a line "IDX ID" for each.`

func (a *app) listIdxCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list-idx [--find HEX] IDX...",
		Short:   "print the ids in idx files",
		Long:    listIdxHelp,
		Example: "  kedge list-idx --find ce01 objects/pack/*.idx",
		Args:    cobra.MinimumNArgs(1),
		Hidden:  true,
	}
	find := cmd.Flags().String("find", "", "only the ids that begin with `HEX`")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if len(*find) > 40 || strings.Trim(*find, "0123456789abcdefABCDEF") != "" {
			return usagef("option --find: %s is no beginning of an id", quote(*find))
		}
		prefix := strings.ToLower(*find)
		failed := int64(0)
		for _, name := range args {
			var line []byte
			err := eachRecord(name, func(r pack.Record) error {
				line = append(append(line[:0], name...), ' ')
				n := len(line)
				line = append(r.ID.AppendHex(line), '\n')
				if !strings.HasPrefix(string(line[n:]), prefix) {
					return ctx.Err()
				}
				return a.print(line)
			})
			if errors.Is(err, errReaderGone) || ctx.Err() != nil {
				return err
			}
			if err != nil {
				failed++
				a.ui.warn(name, err)
			}
		}
		if failed > 0 {
			return &partialError{plural(failed, "file") + " could not be listed"}
		}
		return nil
	})
}

// eachRecord calls fn for each object of an idx file.
func eachRecord(name string, fn func(pack.Record) error) error {
	x, done, err := openIdx(name)
	if err != nil {
		return err
	}
	defer func() { _ = done() }() // it was read only
	return x.Records(fn)
}

func openIdx(name string) (*pack.Idx, func() error, error) {
	if !strings.HasSuffix(name, ".idx") {
		return nil, nil, errors.New("names of idx files end with .idx")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var x *pack.Idx
		if x, err = pack.OpenIdx(filepath.Base(name), f, info.Size()); err == nil {
			return x, f.Close, nil
		}
	}
	_ = f.Close()
	return nil, nil, err
}

// idxFiles returns the paths of the idx files of the repository in DIR.
func (a *app) idxFiles(ctx context.Context) ([]string, error) {
	p, err := a.place()
	if err != nil {
		return nil, err
	}
	if p.scheme != "" {
		return nil, usagef("%s: this needs a repository in a directory", quote(p.path))
	}
	r, err := a.open(ctx, true) // that there is one
	if err != nil {
		return nil, err
	}
	defer a.closeRepo(r)
	for _, dir := range []string{".git/objects/pack", "objects/pack"} {
		names, err := filepath.Glob(filepath.Join(globbed(p.path), dir, "*.idx"))
		if len(names) > 0 || err != nil {
			return names, err
		}
	}
	return nil, nil
}

// globbed quotes a directory for filepath.Glob.
func globbed(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// someObjects returns up to n ids of objects that are in the repository.
func someObjects(ctx context.Context, r repository, n int) (ids []pack.ID, err error) {
	d, ok := r.(directory)
	if !ok {
		return nil, usagef("--existing needs a repository in a directory")
	}
	names, err := d.Indexes(ctx)
	for _, name := range names {
		if err != nil || len(ids) == n {
			break
		}
		err = d.eachIdxRecord(ctx, name, func(r pack.Record) error {
			if len(ids) == n {
				return io.EOF
			}
			ids = append(ids, r.ID)
			return nil
		})
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	return ids, err
}

// eachIdxRecord calls fn for each object of an idx file of the repository.
func (d directory) eachIdxRecord(ctx context.Context, name string, fn func(pack.Record) error) error {
	b, err := d.OpenIndex(ctx, name)
	if err != nil {
		return err
	}
	defer b.Close()
	x, err := pack.OpenIdx(name, b, b.Size())
	if err != nil {
		return err
	}
	return x.Records(fn)
}

const marginHelp = `Margin tells how many bits the two ids have in common, of all in the repository, that
have the most: how far ids of 160 bits are from running out. It never will.

With --predict it tells by how much one errs who guesses where an id stands in its idx
file from its first bits.`

func (a *app) marginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "margin [--predict]",
		Short:   "tell how many bits of two ids are the same",
		Long:    marginHelp,
		Example: "  kedge margin",
		Args:    cobra.NoArgs,
		Hidden:  true,
	}
	predict := cmd.Flags().Bool("predict", false, "tell how well places of ids can be guessed")
	cmd.Flags().Bool("ignore-midx", false, "accepted; nothing changes")
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		names, err := a.idxFiles(ctx)
		if err != nil {
			return err
		}
		if *predict {
			return a.predict(ctx, names)
		}
		return a.margin(ctx, names)
	})
}

// marginParts is in how many parts all ids are looked at, so that those of a thousand
// million objects need 80 MB of memory.
const marginParts = 256

// margin compares neighbours among all ids.
func (a *app) margin(ctx context.Context, names []string) error {
	longest, total := 0, int64(0)
	var last pack.ID
	var ids []pack.ID
	var head [20]byte
	for part := range marginParts {
		ids = ids[:0]
		for _, name := range names {
			err := eachRecord(name, func(r pack.Record) error {
				if int(r.ID.AppendBytes(head[:0])[0]) == part {
					ids = append(ids, r.ID)
				}
				return ctx.Err()
			})
			if err != nil {
				return err
			}
		}
		slices.SortFunc(ids, func(a, b pack.ID) int { return a.Compare(b) })
		ids = slices.Compact(ids)
		for _, id := range ids {
			if total++; total > 1 {
				longest = max(longest, sharedBits(last, id))
			}
			last = id
		}
	}
	b := fmt.Appendf(nil, "%d\n", longest)
	if err := a.print(b); err != nil || total < 2 {
		return err
	}
	doublings := math.Log2(float64(total))
	perDoubling := float64(longest) / doublings
	left := 160 - longest
	text := fmt.Sprintf("%d matching prefix bits\n%.2f bits per doubling\n%d bits (%.2f doublings) remaining\n%.6g times larger is possible\n",
		longest, perDoubling, left, float64(left)/perDoubling, math.Pow(2, float64(left)/perDoubling))
	a.ui.raw([]byte(text))
	return nil
}

// sharedBits counts the first bits that two ids have in common.
func sharedBits(a, b pack.ID) int {
	p, q := a.AppendBytes(nil), b.AppendBytes(nil)
	for i := range p {
		if x := p[i] ^ q[i]; x != 0 {
			return 8*i + bits.LeadingZeros8(x)
		}
	}
	return 8 * len(p)
}

// predict compares the place of each id with where its first 32 bits would have it.
func (a *app) predict(ctx context.Context, names []string) error {
	var head [20]byte
	for _, name := range names {
		x, done, err := openIdx(name)
		if err != nil {
			return err
		}
		n, at, worst := int64(x.Len()), int64(0), int64(0)
		err = x.Records(func(r pack.Record) error {
			first := binary.BigEndian.Uint32(r.ID.AppendBytes(head[:0]))
			guess := int64(float64(first) / (1 << 32) * float64(n))
			worst = max(worst, guess-at, at-guess)
			at++
			return ctx.Err()
		})
		_ = done()
		if err != nil {
			return err
		}
		if err := a.print(fmt.Appendf(nil, "%d of %d (%.3f%%) \n", worst, n, 100*float64(worst)/float64(max(n, 1)))); err != nil {
			return err
		}
	}
	return nil
}
