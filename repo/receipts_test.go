package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
	"github.com/kedgebackup/kedge/pack"
)

// ExampleReceipt prints the worked example of the format: two lines, of which
// the second holds the hash of the first.
func ExampleReceipt() {
	one := Receipt{
		Seq: 1, Time: 1700000000, Ref: "refs/heads/etc",
		New: pack.Sum(pack.Commit, []byte("new")), Tree: pack.Sum(pack.Tree, nil),
		Author: "1699999990+0100", Objects: 12, Bytes: 3456, Seconds: 0.25, ClientTime: 1699999999,
	}
	line := one.Append(nil)
	two := Receipt{Seq: 2, Time: 1700000001, Ref: "refs/heads/etc", Old: one.New, Principal: "key of Ann", Prev: sha256.Sum256(line)}
	fmt.Printf("%s%s", line, two.Append(nil))
	// Output:
	// 1 1700000000 refs/heads/etc 0000000000000000000000000000000000000000 c840612cd102ff309d4b3bb01406b2b84bc9afca 4b825dc642cb6eb9a060e54bf8d69288fbee4904 1699999990+0100 - 12 3456 0.250 1699999999 0000000000000000000000000000000000000000000000000000000000000000
	// 2 1700000001 refs/heads/etc c840612cd102ff309d4b3bb01406b2b84bc9afca 0000000000000000000000000000000000000000 0000000000000000000000000000000000000000 - key%20of%20Ann 0 0 0.000 0 5ad089a753992aa700cc67c35789e434548faf1a112bdfda4541d6d944504ced
}

// moves makes a repository with a ref that was moved n times.
func moves(t *testing.T, n int) (p *Packs, dir string, saves []saved) {
	t.Helper()
	p, dir = newRepo(t, InitOptions{})
	var parents []pack.ID
	for i := range n {
		s := makeSave(fmt.Sprint("save ", i), 2, parents...)
		if _, err := s.save(context.Background(), p); err != nil {
			t.Fatal(err)
		}
		parents = []pack.ID{s.commit}
		saves = append(saves, s)
	}
	return p, dir, saves
}

// readReceipts returns all receipts.
func readReceipts(p *Packs) (list []Receipt, err error) {
	err = p.Receipts(context.Background(), func(r Receipt) error {
		list = append(list, r)
		return nil
	})
	return list, err
}

func TestReceipts(t *testing.T) {
	ctx := context.Background()
	p, _, saves := moves(t, 3)
	m := Move{Ref: testRef, Old: saves[2].commit, Stats: MoveStats{
		Objects: 7, Bytes: 8, Seconds: 1.5, ClientTime: 9, Principal: "a b\n%\x00ü-"}}
	if _, err := p.SetRef(ctx, m); err != nil {
		t.Fatal(err)
	}
	list, err := readReceipts(p)
	if err != nil || len(list) != 4 {
		t.Fatal(list, err)
	}
	var old pack.ID
	for i, s := range saves {
		r := list[i]
		if r.Seq != int64(i+1) || r.Ref != testRef || r.Old != old || r.New != s.commit || r.Tree != s.tree || r.Author != "1700000000+0100" {
			t.Errorf("%+v", r)
		}
		if now := time.Now().Unix(); r.Time > now || r.Time < now-100 {
			t.Error("time is", r.Time)
		}
		old = s.commit
	}
	r := list[3]
	if r.Objects != 7 || r.Bytes != 8 || r.Seconds != 1.5 || r.ClientTime != 9 || r.Principal != m.Stats.Principal || !r.New.IsZero() || !r.Tree.IsZero() || r.Author != "" {
		t.Errorf("%+v", r)
	}
	m.Ref, m.Old, m.New, m.Stats.Principal = "refs/heads/long", pack.ID{}, saves[0].commit, strings.Repeat("\x00", maxReceipt)
	if _, err := p.SetRef(ctx, m); err == nil {
		t.Error("a line longer than readers take was written")
	}
	if _, err := readReceipts(p); err != nil {
		t.Error(err)
	}
}

// TestReceiptsDamaged: a torn or changed last line is cut off by the next
// move; a change further back is found by whoever reads the chain.
func TestReceiptsDamaged(t *testing.T) {
	ctx := context.Background()
	_, origin, saves := moves(t, 4)
	text, err := os.ReadFile(filepath.Join(origin, fileReceipts))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))[:4]
	last := len(text) - len(lines[3])
	next := makeSave("next", 1, saves[3].commit)
	for _, test := range []struct {
		name string
		text []byte
		keep int  // good lines that stay
		read bool // they can be read before the next move
		ok   bool
	}{
		{"whole", text, 4, true, true},
		{"torn", text[:len(text)-5], 3, true, true},
		{"torn at its newline", text[:len(text)-1], 3, true, true},
		{"last line changed", append(slices.Clone(text[:last]), flip(3)(slices.Clone(lines[3]))...), 3, false, true},
		{"last line twice", append(slices.Clone(text), lines[3]...), 4, false, true},
		{"last line of another chain", append(slices.Clone(text[:last]), lines[0]...), 3, false, true},
		{"zeros behind", append(slices.Clone(text), make([]byte, 600)...), 4, true, true},
		{"only a torn line", lines[0][:20], 0, true, true},
		{"empty", nil, 0, true, true},
		{"line before the last changed", slices.Concat(lines[0], lines[1], flip(3)(slices.Clone(lines[2])), lines[3]), 0, false, false},
		{"nonsense", bytes.Repeat([]byte("x y z\n"), 100), 0, false, false},
		{"first line changed", slices.Concat(flip(30)(slices.Clone(lines[0])), lines[1], lines[2], lines[3]), 0, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := copyTree(t, origin)
			if err := os.WriteFile(filepath.Join(dir, fileReceipts), test.text, 0o600); err != nil {
				t.Fatal(err)
			}
			p := openRepo(t, dir, DirOptions{})
			list, err := readReceipts(p)
			if (err == nil) != test.read || test.read && len(list) != test.keep {
				t.Fatal(len(list), err)
			}
			if c := new(pack.CorruptError); err != nil && (!errors.As(err, &c) || c.File != fileReceipts) {
				t.Fatal(err)
			}
			_, err = next.save(ctx, p)
			if (err == nil) != test.ok {
				t.Fatal(err)
			}
			list, err = readReceipts(p)
			if test.keep > 0 && (err != nil || len(list) != test.keep+1) {
				t.Fatal(len(list), err)
			}
			if test.name == "first line changed" && err == nil {
				t.Fatal("a changed line was not noticed")
			}
		})
	}
}

// TestReceiptsFailing: after a failed write or sync of the file a new one takes
// its place, with all lines that were good.
func TestReceiptsFailing(t *testing.T) {
	ctx := context.Background()
	_, origin, saves := moves(t, 2)
	next := makeSave("next", 1, saves[1].commit)
	on := func(op fsx.Op) bool {
		return strings.HasSuffix(op.Path, fileReceipts) && (op.Kind == fsx.KindWrite || op.Kind == fsx.KindSync || op.Kind == fsx.KindTruncate)
	}
	n := fault.Plan{Match: on, Drop: true, Short: true}.Sweep(func(f *fault.Fail) {
		dir := copyTree(t, origin)
		before, _ := os.Stat(filepath.Join(dir, fileReceipts))
		// A torn line has to be cut off first.
		file, err := os.OpenFile(filepath.Join(dir, fileReceipts), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		file.WriteString("3 torn")
		file.Close()
		p := openRepo(t, dir, DirOptions{FS: &fsx.FS{Intercept: f.Intercept}})
		_, err = next.save(ctx, p)
		if (err != nil) != f.Fired() {
			t.Fatal(err)
		}
		if after, _ := os.Stat(filepath.Join(dir, fileReceipts)); os.SameFile(before, after) == f.Fired() {
			t.Fatal("the file was to be replaced if an operation on it failed, and only then")
		}
		if list, err := readReceipts(p); err != nil || f.Fired() && len(list) != 2 {
			t.Fatal(list, err)
		}
		if _, err := next.save(ctx, openRepo(t, dir, DirOptions{})); err != nil {
			t.Fatal(err)
		}
		if list, err := readReceipts(p); err != nil || len(list) != 3 {
			t.Fatal(list, err)
		}
	})
	if n != 3 {
		t.Fatalf("%d operations on the receipts failed", n)
	}
}

// TestReceiptClock: the time never runs backwards.
func TestReceiptClock(t *testing.T) {
	ctx := context.Background()
	p, dir, saves := moves(t, 1)
	future := time.Now().Unix() + 1_000_000
	r := Receipt{Seq: 1, Time: future, Ref: testRef, New: saves[0].commit}
	if err := os.WriteFile(filepath.Join(dir, fileReceipts), r.Append(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	next := makeSave("next", 1, saves[0].commit)
	if _, err := next.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	list, err := readReceipts(p)
	if err != nil || len(list) != 2 || list[1].Time != future {
		t.Fatal(list, err)
	}
}

// TestSaveTimes: the time of a save is not what its commit says.
func TestSaveTimes(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	store := func(s saved) pack.ID {
		t.Helper()
		if err := s.store(ctx, p); err != nil {
			t.Fatal(err)
		}
		return s.commit
	}
	before := makeSave("before", 1)
	first := makeSave("first", 1, store(before))
	along := makeSave("along", 1, store(first))
	tip := makeSave("tip", 1, store(along))
	again := makeSave("first", 1, store(tip)) // what a prune makes of first
	store(again)
	never := makeSave("never", 1)
	var lines []byte
	var sum [sha256.Size]byte
	for i, m := range []struct {
		at       int64
		ref      string
		old, new saved
	}{
		{1_800_000_000, testRef, before, first},
		{1_800_000_100, "refs/heads/other", saved{}, along},
		{1_800_000_200, testRef, first, tip},
		{1_800_000_300, testRef, tip, again},
	} {
		r := Receipt{Seq: int64(i + 1), Time: m.at, Ref: m.ref, Old: m.old.commit, New: m.new.commit, Tree: m.new.tree, Author: "1700000000+0100", Prev: sum}
		line := r.Append(nil)
		lines, sum = append(lines, line...), sha256.Sum256(line)
	}
	if err := os.WriteFile(filepath.Join(dir, fileReceipts), lines, 0o600); err != nil {
		t.Fatal(err)
	}
	times, err := p.SaveTimes(ctx, testRef)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		s    saved
		want int64
	}{
		{"there before the first receipt", before, 1_700_000_000},
		{"with a receipt", first, 1_800_000_000},
		{"brought along by a later one", along, 1_800_000_200},
		{"with the later receipt", tip, 1_800_000_200},
		{"written anew", again, 1_800_000_000},
		{"not of this ref", never, 1_700_000_000},
	} {
		c, err := ParseCommit(bodyOf(t, test.s.entries[Trees][1]))
		if err != nil {
			t.Fatal(err)
		}
		if at, err := times.Time(ctx, test.s.commit, &c); err != nil || at.Unix() != test.want {
			t.Errorf("%s: %v, %v", test.name, at.Unix(), err)
		}
	}
}

func FuzzReceipt(f *testing.F) {
	r := Receipt{Seq: 1, Time: 2, Ref: "refs/heads/a", Author: "3+0100", Principal: "a b", Seconds: 0.5}
	f.Add(r.Append(nil))
	f.Add([]byte("1 2 3\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, err := ParseReceipt(b)
		if err != nil {
			return
		}
		if got := r.Append(nil); string(got)+string(rest) != string(b) {
			t.Fatalf("%q came back as %q", b, got)
		}
	})
}

func FuzzClosed(f *testing.F) {
	f.Add([]byte("pack-4b825dc642cb6eb9a060e54bf8d69288fbee4904 1048 1156\nuses pack-4b825dc642cb6eb9a060e54bf8d69288fbee4904 0 1\ntorn"))
	f.Add([]byte("pack-4b825dc642cb6eb9a060e54bf8d69288fbee4904 01 1\n\npack-x 1 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines := parseClosed(text)
		var again []byte
		for _, l := range lines {
			again = l.append(again)
		}
		if len(again) > len(text) || !slices.Equal(parseClosed(again), lines) {
			t.Fatalf("%q: %v, %q", text, lines, again)
		}
	})
}
