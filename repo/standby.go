package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/config"

	"github.com/kedgebackup/kedge/pack"
)

// What stands here is for a copy that follows a repository elsewhere, from which it
// believes as little as can be.

// Follow makes a directory stand where a state says, as SetState does, if it is a copy that
// fell behind: its own diary has to be the beginning of that of the state. Else somebody has
// saved into the copy, or the other repository is not the one that it was, and to follow
// would lose what only the copy has; that is a *RefusedError. It is looked at under the lock
// of the refs, so that nobody can come between.
//
// Which packs are closed the directory knows by itself; s.Closed means nothing.
func (d *Dir) Follow(ctx context.Context, s State) error {
	return d.withPackedRefs(ctx, func(l *refLock) error {
		own, err := d.readState(ctx)
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(s.Receipts, WholeLines(own.Receipts)) {
			return &RefusedError{Reason: "the copy has a diary of its own: somebody saved into it, or what it follows is not what it was; nothing is taken away from it"}
		}
		s.Closed = own.Closed
		return d.stand(ctx, l, s)
	})
}

// WholeLines returns a text without a last line that has no end.
func WholeLines(text []byte) []byte { return text[:bytes.LastIndexByte(text, '\n')+1] }

// CheckState refuses a state that no repository is in: names that are none, or twice, a
// diary whose lines do not follow from each other, a config that cannot be read. It does
// not look at objects.
func CheckState(ctx context.Context, s State) error {
	last := ""
	for _, r := range s.Refs {
		if err := CheckRefName(r.Name); err != nil {
			return err
		}
		if r.Name <= last || r.ID.IsZero() {
			return &pack.CorruptError{File: filePackedRefs, Off: -1, Reason: fmt.Sprintf("%s is not in its place, or nowhere", r.Name)}
		}
		last = r.Name
	}
	if s.Head != "" {
		if err := CheckRefName(s.Head); err != nil {
			return err
		}
	}
	if !bytes.Equal(WholeLines(s.Receipts), s.Receipts) {
		return &pack.CorruptError{File: fileReceipts, Off: int64(len(s.Receipts)), Reason: "the last line has no end"}
	}
	if err := scanReceipts(ctx, bytes.NewReader(s.Receipts), func(Receipt) error { return nil }); err != nil {
		return err
	}
	for line := range bytes.Lines(s.Pruned) {
		if _, ok := parsePruned(string(line)); !ok {
			return &pack.CorruptError{File: filePruned, Off: -1, Reason: "a line that is none"}
		}
	}
	for line := range bytes.Lines(s.Pins) {
		if _, ok := parsePin(string(line)); !ok {
			return &pack.CorruptError{File: filePins, Off: -1, Reason: "a line that is none"}
		}
	}
	_, err := ParseConfig(s.Config)
	return err
}

// copied are the settings that a copy of a repository takes over: those that say how the
// repository is written and read, and those that keep git from harming it. Others can make
// git run programs, or read files elsewhere.
var copied = slices.Concat([]option{
	{"core", "", "repositoryformatversion", ""}, {"core", "", "filemode", ""}, {"core", "", "bare", ""},
	{"core", "", "compression", ""}, {"pack", "", "compression", ""}, {"pack", "", "packSizeLimit", ""},
	{"bup", "repo", "id", ""}, {"bup", "split", "files", ""}, {"bup", "split", "trees", ""},
	{"kedge", "", "version", ""}, {"kedge", "", "chunker", ""}, {"kedge", "", "packObjects", ""},
}, hardening)

// CopiedConfig returns the config of a copy of a repository with a config.
func CopiedConfig(text []byte) ([]byte, error) {
	if _, err := ParseConfig(text); err != nil { // extensions that are not understood, too
		return nil, err
	}
	raw, err := decodeConfig(text)
	if err != nil {
		return nil, err
	}
	var keep []option
	for _, o := range copied {
		if o.value = lastOption(raw, o.section, o.sub, o.key); plainValue(o.value) {
			keep = append(keep, o)
		}
	}
	return editConfig(nil, append(keep, fsckOptions(raw)...)), nil
}

// fsckOptions returns which complaints git fsck leaves out; see AllowNames.
func fsckOptions(raw *config.Config) (list []option) {
	if !raw.HasSection("fsck") {
		return nil
	}
	for _, o := range raw.Section("fsck").Options {
		letters := strings.Trim(strings.ToLower(o.Key), "abcdefghijklmnopqrstuvwxyz") == ""
		if letters && slices.Contains([]string{"ignore", "warn", "error"}, o.Value) {
			list = append(list, option{"fsck", "", o.Key, o.Value})
		}
	}
	return list
}

// plainValue reports whether a value is there and needs no quotes.
func plainValue(v string) bool {
	return v != "" && !strings.ContainsFunc(v, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:", r)
	})
}

// CheckPackFile refuses names that are not those of packs and their idx files in the
// directory of packs (I6).
func CheckPackFile(name string) error {
	stem, ok := strings.CutPrefix(path.Base(name), "pack-")
	ending := path.Ext(stem)
	stem = strings.TrimSuffix(stem, ending)
	if ok && path.Dir(name) == dirPacks && (ending == ".pack" || ending == ".idx") && stem != "" && len(stem) <= 128 && plainValue(stem) && checkName(name) == nil {
		return nil
	}
	return fmt.Errorf("%q is no name of a pack", name)
}

// PublishPack gives a pack that was received its name, and makes its idx. The pack is read
// as a whole, every object inflated and hashed, and compared with its checksum; so a copy
// believes nothing of what came with it:
//
//	fsync PACK, link, fsync of objects/pack, remove; write IDX; the same with IDX
//
// room is for the largest object.
func (d *Dir) PublishPack(ctx context.Context, name string, in Pending, size, room int64) error {
	if err := CheckPackFile(name); err != nil {
		return err
	}
	tail := make([]byte, len(pack.ID{}.AppendBytes(nil)))
	if size < int64(len(tail)) {
		return &pack.CorruptError{File: name, Off: size, Reason: "it ends before its checksum"}
	}
	if _, err := in.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return err
	}
	sum, _, _ := pack.CutID(tail)
	pk, err := pack.OpenPack(name, in, size, sum)
	if err != nil {
		return err
	}
	x, err := pk.Reindex(pack.NewScratch(room))
	if err != nil {
		return err
	}
	to, err := d.Create(ctx)
	if err != nil {
		return err
	}
	defer to.Abort()
	if _, err := x.WriteTo(to); err != nil {
		return err
	}
	if err := in.Commit(name); err != nil {
		return err
	}
	return to.Commit(strings.TrimSuffix(name, ".pack") + ".idx")
}

// HasPack reports whether a pack is there with its idx, and has that size. One of another
// size is an *ExistsError.
func (d *Dir) HasPack(name string, size int64) (bool, error) {
	info, err := d.fs.Lstat(d.name(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if info.Size() != size {
		return false, &ExistsError{Name: name}
	}
	_, err = d.fs.Lstat(d.name(strings.TrimSuffix(name, ".pack") + ".idx"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
