package s3sync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
)

// sentList is the packs that were sent from here and that no manifest named when it was looked
// at last: a text file, to which all who work on the repository here add under a lock.
//
//	pack 1700000000 trees
//	+ objects/pack/pack-….pack 1048 2c26b4…66e7 objects/pack/pack-….pack
//	+ objects/pack/pack-….idx 1156 9f86d0…0a08 objects/pack/pack-….idx
//
// Each three lines are a pack: when it was sent, its class, and the lines of a manifest. They are
// written and synced when both files are in the bucket. A torn last pack means nothing.
//
// What no manifest names may be deleted by a prune after seven days, so here it counts for three.
type sentList struct {
	fs   *fsx.FS
	name string

	mu    sync.Mutex
	packs map[string]sentPack
}

// sentPack is a pack that was sent.
type sentPack struct {
	name, kind string
	at         time.Time
	pack, idx  File
	named      uint64 // the first generation that was seen to name it; 0: none
}

const (
	sentAge = 3 * 24 * time.Hour
	maxSent = 64 << 20 // bytes of the file
)

// openSent reads the list.
func openSent(fsys *fsx.FS, dir string, now time.Time) (*sentList, error) {
	l := &sentList{fs: fsys, name: filepath.Join(dir, "sent"), packs: make(map[string]sentPack)}
	return l, l.locked(func(text []byte) error {
		l.read(text, now)
		return nil
	})
}

// locked calls fn with the text, while nobody else adds to it.
func (l *sentList) locked(fn func(text []byte) error) error {
	lock, err := l.fs.Lock(l.name+".lock", fsx.Exclusive, time.Minute)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	text, err := l.fs.ReadFile(l.name, maxSent)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fn(text)
}

// read takes what the text says that is not too old.
func (l *sentList) read(text []byte, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range parseSent(text) {
		if old, ok := l.packs[p.name]; now.Sub(p.at) < sentAge && !(ok && old.named > 0 && old.pack == p.pack) {
			l.packs[p.name] = p
		}
	}
}

func parseSent(text []byte) (list []sentPack) {
	for {
		var lines [3]string
		rest := text
		for i := range lines {
			line, after, ok := bytes.Cut(rest, []byte("\n"))
			if !ok {
				return list
			}
			lines[i], rest = string(line), after
		}
		p, ok := parseSentPack(lines)
		if !ok {
			_, text, _ = bytes.Cut(text, []byte("\n")) // what a torn one left
			continue
		}
		list, text = append(list, p), rest
	}
}

func parseSentPack(lines [3]string) (p sentPack, ok bool) {
	f := strings.Split(lines[0], " ")
	if len(f) != 3 || f[0] != "pack" || !slices.Contains(segmentClasses, f[2]) {
		return p, false
	}
	secs, err := strconv.ParseInt(f[1], 10, 64)
	p.at, p.kind = time.Unix(secs, 0), f[2]
	var errs [2]error
	for i, to := range []*File{&p.pack, &p.idx} {
		words, isFile := strings.CutPrefix(lines[1+i], "+ ")
		*to, errs[i] = parseFile(strings.Split(words, " "))
		ok = isFile && (i == 0 || ok)
	}
	stem, isPack := packOf(p.pack.Name)
	p.name = stem
	return p, ok && isPack && errors.Join(err, errs[0], errs[1]) == nil && p.idx.Name == dirPacks+"/"+stem+".idx"
}

// append appends the lines of a pack.
func (p *sentPack) append(b []byte) []byte {
	b = fmt.Appendf(b, "pack %d %s\n", p.at.Unix(), p.kind)
	return p.idx.append(p.pack.append(b))
}

// add adds a pack and makes that durable: write, fsync; the first one: replace.
func (l *sentList) add(p sentPack) error {
	err := l.locked(func(text []byte) error {
		if len(text) == 0 {
			return l.fs.Replace(l.name, p.append(nil), 0o600)
		}
		f, err := l.fs.OpenWrite(l.name)
		if err != nil {
			return err
		}
		var b []byte
		if text[len(text)-1] != '\n' {
			b = append(b, '\n')
		}
		_, err = f.WriteAt(p.append(b), int64(len(text)))
		if err == nil {
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	})
	if err == nil {
		l.mu.Lock()
		l.packs[p.name] = p
		l.mu.Unlock()
	}
	return err
}

// get returns a pack that was sent.
func (l *sentList) get(name string) (sentPack, bool) {
	l.mu.Lock()
	p, ok := l.packs[name]
	l.mu.Unlock()
	if ok {
		return p, true
	}
	// Another process may have sent it.
	if err := l.locked(func(text []byte) error { l.read(text, time.Now()); return nil }); err != nil {
		return p, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok = l.packs[name]
	return p, ok
}

// all returns the packs, by name.
func (l *sentList) all() []sentPack {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]sentPack, 0, len(l.packs))
	for _, p := range l.packs {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b sentPack) int { return strings.Compare(a.name, b.name) })
	return list
}

// drop forgets packs.
func (l *sentList) drop(names []string) error {
	l.mu.Lock()
	for _, name := range names {
		delete(l.packs, name)
	}
	l.mu.Unlock()
	return l.locked(func(text []byte) error {
		var kept []byte
		for _, p := range parseSent(text) {
			if !slices.Contains(names, p.name) {
				kept = p.append(kept)
			}
		}
		return l.fs.Replace(l.name, kept, 0o600)
	})
}

// sentKept is how large the file may grow before what a manifest names is left out.
const sentKept = 64 << 10

// visible reports whether a pack is to be seen in generation n: one that is named later, as by
// another session here. What is named before and not there is gone.
func (p *sentPack) visible(n uint64) bool { return p.named == 0 || p.named > n }

// named notes the packs that a generation names, and forgets them when nobody works on the
// generations of before any more. That the file can't be made shorter now is no failure.
func (l *sentList) named(g *Generation) {
	has := func(p *sentPack) bool {
		f, ok := g.File(p.pack.Name)
		return ok && f == p.pack
	}
	l.mu.Lock()
	for name, p := range l.packs {
		switch {
		case has(&p) && (p.named == 0 || p.named > g.N):
			p.named = g.N
			l.packs[name] = p
		case p.named > 0 && time.Since(p.at) > sentAge:
			delete(l.packs, name)
		}
	}
	l.mu.Unlock()
	_ = l.locked(func(text []byte) error {
		if len(text) < sentKept {
			return nil
		}
		var kept []byte
		for _, p := range parseSent(text) {
			if !has(&p) && time.Since(p.at) < sentAge {
				kept = p.append(kept)
			}
		}
		return l.fs.Replace(l.name, kept, 0o600)
	})
}

// maxFiles keeps manifests, which have 200 bytes for each file, below maxManifest.
const maxFiles = 2_000_000

// fits refuses what would make a repository larger than can be read. To take away is always
// possible, though it adds commits, or packs in place of others.
func (l *Living) fits(files int, step repo.Step) error {
	if files <= l.o.MaxFiles || len(step.Drop) > 0 || !slices.ContainsFunc(step.Add, func(name string) bool {
		p, _ := l.sent.get(name)
		return p.kind == "data"
	}) {
		return nil
	}
	err := &repo.RefusedError{Reason: fmt.Sprintf("%s would have %d files, and a manifest of so many may be too large to be read: save into another repository", l.b.name(), files)}
	return errors.Join(err, l.sent.drop(step.Add))
}

// begin returns what is done before anything is written.
func (l *Living) begin(id string) func(context.Context) error {
	return func(ctx context.Context) error {
		m, err := l.sender(id)
		if err != nil {
			return err
		}
		return m.begin(ctx)
	}
}

// there reports whether a pack is there that was sent long ago: what nobody has named since may
// have been dropped, deleted and forgotten. A prune that drops it from now on takes the number
// that the next generation is to have.
func (l *Living) there(ctx context.Context, p *sentPack) (bool, error) {
	for _, f := range []File{p.pack, p.idx} {
		if _, err := l.b.verify(ctx, f, false); errors.Is(err, errDamaged) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return true, nil
}

// packOf returns the name of the pack that a file is of.
func packOf(name string) (stem string, ok bool) {
	dir, base := filepath.Split(name)
	ext := filepath.Ext(base)
	return strings.TrimSuffix(base, ext), dir == dirPacks+"/" && (ext == ".pack" || ext == ".idx")
}
