package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
)

const randomHelp = `Random writes SIZE bytes that do not compress to standard output, the same for the same
seed, on every machine. They are for tests and for nothing else: who has seen a few knows
the rest.`

// maxRandom bounds what one call writes: 2^60 bytes.
const maxRandom = 1 << 60

func (a *app) randomCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "random [-S SEED] SIZE",
		Short:   "write bytes that do not compress, for tests",
		Long:    randomHelp,
		Example: "  kedge random -S 7 10M | kedge split -n test",
		Args:    cobra.ExactArgs(1),
		Hidden:  true,
	}
	seed := cmd.Flags().IntP("seed", "S", 1, "begin with the number `SEED`")
	force := cmd.Flags().BoolP("force", "f", false, "write to a terminal, too")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		n, err := parseSize(args[0])
		if err != nil || n > maxRandom {
			return usagef("%s is no number of bytes", quote(args[0]))
		}
		if a.outTTY > 0 && !*force {
			return errors.New("these bytes are not for a terminal; -f writes them all the same")
		}
		return writeRandom(ctx, listingWriter{a}, uint32(*seed), n)
	})
}

// randomSource is the additive generator of the C library's random(), whose numbers are
// part of the interface of this command. It is random_r with 31 words of state:
//
//	r[0] = seed, or 1;  r[i] = 16807·r[i-1] mod 2^31-1     for i < 31
//	r[i] = r[i-31] for i < 34, then r[i-3] + r[i-31]
//	the numbers are r[344]/2, r[345]/2, …
//
// Seed 1 begins 6b8b4567 327b23c6 643c9869.
type randomSource struct {
	state [31]uint32
	at    int
}

func newRandomSource(seed uint32) *randomSource {
	if seed == 0 {
		seed = 1
	}
	s := new(randomSource)
	word := int64(int32(seed))
	s.state[0] = uint32(word)
	for i := 1; i < len(s.state); i++ {
		hi, lo := word/127773, word%127773 // 16807·word mod 2^31-1 for a negative word, too
		if word = 16807*lo - 2836*hi; word < 0 {
			word += 1<<31 - 1
		}
		s.state[i] = uint32(word)
	}
	s.at = 3 // r[34] stands on r[31] and r[3]; r[31] to r[33] are r[0] to r[2]
	for range 310 {
		s.next()
	}
	return s
}

func (s *randomSource) next() uint32 {
	front := &s.state[s.at%31]
	*front += s.state[(s.at+28)%31]
	s.at++
	return *front >> 1
}

// writeRandom writes n bytes, each number in four, the lowest first.
func writeRandom(ctx context.Context, out io.Writer, seed uint32, n int64) error {
	s := newRandomSource(seed)
	buf := make([]byte, 64<<10)
	for n > 0 && ctx.Err() == nil {
		for i := 0; i < len(buf); i += 4 {
			binary.LittleEndian.PutUint32(buf[i:], s.next())
		}
		k := min(n, int64(len(buf)))
		if _, err := out.Write(buf[:k]); err != nil {
			return err
		}
		n -= k
	}
	return ctx.Err()
}

const damageHelp = `Damage overwrites parts of FILEs with other bytes, at places that the seed decides, to
try what 'fsck' says to it. It does so at once, asks nothing, and nothing brings the old
bytes back.`

// damaging are the options of damage.
type damaging struct {
	count   int
	size    sizeValue
	percent int
	equal   bool
	seed    int
}

func (a *app) damageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "damage [-n N] [-s SIZE | --percent P] [--equal] [-S SEED] FILE...",
		Short:   "overwrite parts of files, for tests",
		Long:    damageHelp,
		Example: "  kedge damage -n 10 -s 1k COPY/objects/pack/*.pack",
		Args:    cobra.MinimumNArgs(1),
		Hidden:  true,
	}
	o := damaging{}
	f := cmd.Flags()
	f.IntVarP(&o.count, "num", "n", 10, "damage `N` places of each file")
	f.VarP(&o.size, "size", "s", "at most `SIZE` bytes at each place")
	f.IntVar(&o.percent, "percent", 0, "at most `P` percent of the file at each place")
	f.BoolVar(&o.equal, "equal", false, "the places are equally far from one another")
	f.IntVarP(&o.seed, "seed", "S", 1, "begin with the number `SEED`")
	return a.command(cmd, func(_ context.Context, args []string) error {
		if o.count < 1 || o.percent < 0 || o.percent > 100 {
			return usagef("damage needs a number of places above 0, and a percentage up to 100")
		}
		for i, name := range args {
			a.ui.raw([]byte("Damaging " + strconv.Quote(name) + "...\n"))
			if err := a.damage(name, o, newRandomSource(uint32(o.seed+i))); err != nil {
				return err
			}
		}
		return nil
	})
}

// damage changes one file. What it writes differs from what was there in every byte.
func (a *app) damage(name string, o damaging, random *randomSource) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if size == 0 {
		return nil
	}
	below := func(n int64) int64 {
		return (int64(random.next())<<31 | int64(random.next())) % n
	}
	most := int64(1024)
	if o.percent > 0 {
		most = size * int64(o.percent) / 100
	}
	if o.size > 0 {
		most = int64(o.size)
	}
	most = max(min(most, size, 1<<30), 1)
	for i := range int64(o.count) {
		n := 1 + below(most)
		at := below(size - n + 1)
		if o.equal {
			at = i * (size / int64(o.count))
			n = min(n, size-at)
		}
		a.ui.raw(fmt.Appendf(nil, "  %6d bytes at %d\n", n, at))
		old := make([]byte, n)
		if _, err := f.ReadAt(old, at); err != nil {
			return err
		}
		for k := range old {
			old[k] ^= byte(1 + below(255))
		}
		if _, err := f.WriteAt(old, at); err != nil {
			return err
		}
	}
	return f.Close()
}
