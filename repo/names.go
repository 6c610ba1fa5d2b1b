package repo

import (
	"context"
	"strings"
)

// NameAllower is what a Repo implements that can tell git which names it is
// not to complain about. Names are as they stand in trees.
type NameAllower interface {
	AllowNames(ctx context.Context, names []string) error
}

// Backups hold names that git frowns on, because some systems take them for
// .git or for a file that git obeys. They are saved as they are. That git fsck
// --strict stays quiet about them, and about nothing else, the config gets
//
//	[fsck]
//		hasDotgit = ignore
//
// when such a name is first saved. Only ids that git 2.39 knows may be used:
// at an unknown one git dies. An id that later versions of git added would have
// to wait until the oldest git that people use knows it.
var frownedOn = []struct {
	name  string // what the name is taken for
	short string // how its short name on NTFS begins
	hash  string // and if there are many such names
	ids   []string
}{
	{".git", "git", "", []string{"hasDotgit"}},
	{".gitmodules", "gitmod", "gi7eba", []string{
		"gitmodulesSymlink", "gitmodulesBlob", "gitmodulesMissing", "gitmodulesLarge", "gitmodulesParse",
		"gitmodulesName", "gitmodulesUrl", "gitmodulesPath", "gitmodulesUpdate"}},
	{".gitattributes", "gitatt", "gi7d29", []string{
		"gitattributesSymlink", "gitattributesBlob", "gitattributesMissing", "gitattributesLarge", "gitattributesLineLength"}},
	{".gitignore", "gitign", "gi250a", []string{"gitignoreSymlink"}},
	{".mailmap", "mailma", "maba30", []string{"mailmapSymlink"}},
}

// FsckIDs returns the ids under which git fsck may complain about a name, or
// about the file of that name; none for nearly all names.
func FsckIDs(name string) []string {
	if !mayFrown(name) {
		return nil
	}
	for _, part := range strings.Split(foldName(name), `\`) {
		part, _, _ = strings.Cut(part, ":")
		part = strings.TrimRight(part, " .")
		for _, f := range frownedOn {
			stem, number, isShort := strings.Cut(part, "~")
			if part == f.name || isShort && number != "" && (stem == f.short || stem == f.hash) {
				return f.ids
			}
		}
	}
	return nil
}

// mayFrown is a cheap test that nearly all harmless names fail.
func mayFrown(name string) bool {
	if name == "" {
		return false
	}
	switch c := name[0]; {
	case c == '.', c == 'g', c == 'G', c == 'm', c == 'M', c >= 0x80:
		return true
	}
	return strings.IndexByte(name, '\\') >= 0
}

// foldName drops what HFS+ does not see in a name, and the case.
func foldName(name string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return r
	}, name))
}

// AllowNames adds to the config what git fsck needs to accept the names.
func (p *Packs) AllowNames(ctx context.Context, names []string) error {
	var want []option
	p.allowed.Lock()
	defer p.allowed.Unlock()
	for _, name := range names {
		for _, id := range FsckIDs(name) {
			if !p.allowed.ids[id] {
				want = append(want, option{"fsck", "", id, "ignore"})
			}
		}
	}
	if len(want) == 0 {
		return nil
	}
	if p.readOnly {
		return ErrReadOnly
	}
	var err error
	if p.depot != nil {
		err = p.rewriteText(ctx, fileConfig, func(old []byte) ([]byte, error) { return editConfig(old, want), nil })
	} else {
		_, err = p.dir.addOptions(ctx, want)
	}
	if err != nil {
		return err
	}
	if p.allowed.ids == nil {
		p.allowed.ids = make(map[string]bool)
	}
	for _, o := range want {
		p.allowed.ids[o.key] = true
	}
	return nil
}
