package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/repo"
)

// bupScript is a connection whose client says all that it has to say at once.
type bupScript struct {
	io.Reader
	bytes.Buffer
}

func (s *bupScript) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// bupAsk sends requests to a server and returns all that it answers.
func bupAsk(t testing.TB, o Options, requests string) (string, error) {
	t.Helper()
	conn := &bupScript{Reader: strings.NewReader(requests)}
	err := Serve(context.Background(), conn, o)
	return conn.String(), err
}

// bupOwner is who may do everything with one repository.
func bupOwner(dir string) Options {
	return Options{Grant: access.Grant{Role: access.Owner, Who: "test"}, Default: dir}
}

// bupRepo makes a repository as bup makes one.
func bupRepo(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "build")
	if _, err := repo.InitDir(context.Background(), dir, repo.InitOptions{Bup: true}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// bupObject returns the record of receive-objects-v2 for an object, and its id.
func bupObject(t pack.Type, body string) (record string, id pack.ID) {
	entry, crc := pack.NewEncoder(1).Append(nil, t, []byte(body))
	id = pack.Sum(t, []byte(body))
	return bupRecord(id, crc, entry), id
}

func bupRecord(id pack.ID, crc uint32, entry []byte) string {
	return bupU32(recordHead+len(entry)) + string(id.AppendBytes(nil)) + bupU32(int(crc)) + string(entry)
}

func bupU32(n int) string { return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) }

const (
	bupFinish  = "\x00\x00\x00\x00"
	bupSuspend = "\xff\xff\xff\xff"
)

// bupTree returns the body of a tree of files of these contents, called a, b, c…
func bupTree(ids ...pack.ID) string {
	var entries []repo.TreeEntry
	for i, id := range ids {
		entries = append(entries, repo.TreeEntry{Mode: repo.ModeFile, Name: string(rune('a' + i)), ID: id})
	}
	return string(repo.AppendTree(nil, entries))
}

func bupCommit(tree pack.ID, message string, parents ...pack.ID) string {
	text := "tree " + tree.String() + "\n"
	for _, p := range parents {
		text += "parent " + p.String() + "\n"
	}
	return text + "author A <a@h> 1700000000 +0000\ncommitter A <a@h> 1700000000 +0000\n\n" + message
}

// bupSave returns records of a commit of one file, and the commit's id.
func bupSave(content string, parents ...pack.ID) (records string, id pack.ID) {
	blob, b := bupObject(pack.Blob, content)
	top, t := bupObject(pack.Tree, bupTree(b))
	c, id := bupObject(pack.Commit, bupCommit(t, "m", parents...))
	return blob + top + c, id
}

const bupOK = "\nok\n"

func TestReceive(t *testing.T) {
	dir := bupRepo(t)
	records, id := bupSave("hello\n")
	got, err := bupAsk(t, bupOwner(dir), "receive-objects-v2\n"+records+bupFinish+
		"update-ref refs/heads/t\n"+id.String()+"\n\nread-ref refs/heads/t\nread-ref t\nread-ref nope\n"+
		"cat t\nlist-indexes\nreceive-objects-v2\n"+records+records+bupFinish)
	if err != nil {
		t.Fatal(err)
	}
	idx, _, _ := strings.Cut(got, "\n")
	// The client knows of its own pack: it is not told of it again.
	want := idx + "\n" + bupOK + bupOK + id.String() + "\n" + bupOK + id.String() + "\n" + bupOK + bupOK +
		"\x00\x00\x00\x06hello\n\x00\x00\x00\x00" + bupOK + idx + "\n" + bupOK + bupOK
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// Another client is told of it once, in its first call that sends what is in it.
	again := "receive-objects-v2\n" + records + records + bupFinish
	got, err = bupAsk(t, bupOwner(dir), again+again)
	if want := "index " + idx + "\n" + bupOK + bupOK; got != want || err != nil {
		t.Errorf("another client: %v\ngot  %q\nwant %q", err, got, want)
	}
	name, _ := os.ReadFile(filepath.Join(dir, "objects/pack", idx))
	got, err = bupAsk(t, bupOwner(dir), "send-index "+idx+"\n")
	if want := bupU32(len(name)) + string(name) + bupOK; got != want || err != nil || len(name) == 0 {
		t.Errorf("send-index: %d bytes, %v", len(got), err)
	}
	bupFsck(t, dir)
}

// bupFsck has git look at a repository.
func bupFsck(t *testing.T, dir string) {
	t.Helper()
	if out, err := exec.Command("git", "--git-dir="+dir, "fsck", "--full", "--strict").CombinedOutput(); err != nil {
		t.Errorf("git fsck: %v\n%s", err, out)
	}
}

// What was suspended goes on with the next call, and is completed when the client leaves.
func TestSuspend(t *testing.T) {
	dir := bupRepo(t)
	records, id := bupSave("hello\n")
	blob, _ := bupObject(pack.Blob, "hello\n")
	got, err := bupAsk(t, bupOwner(dir), "receive-objects-v2\n"+blob+bupSuspend+"list-indexes\n"+
		"receive-objects-v2\n"+records[len(blob):]+bupFinish)
	if err != nil || !strings.HasPrefix(got, bupOK+bupOK+"pack-") || strings.Count(got, "pack-") != 1 {
		t.Fatalf("%q, %v", got, err)
	}
	more, next := bupSave("more\n", id)
	got, err = bupAsk(t, bupOwner(dir), "receive-objects-v2\n"+more+bupSuspend+"quit\n")
	if err != nil || got != bupOK {
		t.Fatalf("%q, %v", got, err)
	}
	got, err = bupAsk(t, bupOwner(dir), "cat "+next.String()+"\n")
	if want := bupU32(5) + "more\n" + bupU32(0) + bupOK; got != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	// A client that is cut off within a record leaves nothing.
	lost, lostID := bupSave("lost\n", id)
	if _, err := bupAsk(t, bupOwner(dir), "receive-objects-v2\n"+lost+"\x00"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
	got, _ = bupAsk(t, bupOwner(dir), "cat-batch\n"+lostID.String()+"\n\n")
	if got != "missing\n"+bupOK {
		t.Errorf("after a cut: %q", got)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "kedge/tmp/*"))
	if len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// A repository that is marked as dumb has its clients load everything and tells nothing
// in between.
func TestDumb(t *testing.T) {
	dir := bupRepo(t)
	records, _ := bupSave("hello\n")
	if _, err := bupAsk(t, bupOwner(dir), "receive-objects-v2\n"+records+bupFinish); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bup-dumb-server"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := bupAsk(t, bupOwner(dir), "list-indexes\nreceive-objects-v2\n"+records+bupFinish)
	if !strings.HasSuffix(got, ".idx load\n"+bupOK+bupOK) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// Whatever comes in is looked at before it counts; a client that lies is cut off, and
// the repository stays as it was.
func TestReceiveHostile(t *testing.T) {
	blob, id := bupObject(pack.Blob, "hello\n")
	entry, crc := pack.NewEncoder(1).Append(nil, pack.Blob, []byte("hello\n"))
	other := pack.Sum(pack.Blob, []byte("other"))
	orphan, _ := bupObject(pack.Tree, bupTree(other))
	loose, looseID := bupObject(pack.Commit, bupCommit(other, "m"))
	bomb, bombCRC := pack.NewEncoder(9).Append(nil, pack.Blob, make([]byte, maxObject+1))
	for _, c := range []struct{ name, request string }{
		{"content of another id", bupRecord(other, crc, entry) + bupFinish},
		{"wrong crc", bupRecord(id, crc+1, entry) + bupFinish},
		{"cut entry", bupRecord(id, crc, entry[:len(entry)-1]) + bupFinish},
		{"no entry", bupU32(recordHead) + blob[4:28]},
		{"short record", bupU32(5) + "abcde"},
		{"endless record", bupU32(0xfffffffe) + blob},
		{"bomb", bupRecord(pack.Sum(pack.Blob, make([]byte, maxObject+1)), bombCRC, bomb) + bupFinish},
		{"tree without its blob", orphan + bupFinish},
		{"commit without its tree", loose + bupFinish + "update-ref refs/heads/t\n" + looseID.String() + "\n\n"},
		{"the end within a record", blob[:len(blob)-3]},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := bupRepo(t)
			got, err := bupAsk(t, bupOwner(dir), "receive-objects-v2\n"+c.request)
			if err == nil || strings.Contains(got, "ok") {
				t.Errorf("got %q, %v", got, err)
			}
			packs, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*"))
			refs, _ := filepath.Glob(filepath.Join(dir, "refs/heads/*"))
			tmp, _ := filepath.Glob(filepath.Join(dir, "kedge/tmp/*"))
			if len(packs)+len(refs)+len(tmp) > 0 {
				t.Errorf("the repository has %v %v %v", packs, refs, tmp)
			}
		})
	}
}

// Roles bind a client of bup's protocol as they bind any other.
func TestBupRoles(t *testing.T) {
	root := t.TempDir()
	grant := func(g access.Grant) Options {
		g.Root, g.Repos, g.Who = root, []string{"build"}, "test"
		return Options{Grant: g}
	}
	appending, reading := grant(access.Grant{Role: access.Append}), grant(access.Grant{Role: access.Read})
	blind := grant(access.Grant{Role: access.Append, NoRead: true})
	named := grant(access.Grant{Role: access.Append, Names: []string{"web-*"}})

	one, id1 := bupSave("one\n")
	two, id2 := bupSave("two\n", id1)
	alone, id3 := bupSave("three\n")
	up := func(records string) string { return "receive-objects-v2\n" + records + bupFinish }
	move := func(ref string, id pack.ID, old string) string {
		return "update-ref " + ref + "\n" + id.String() + "\n" + old + "\n"
	}
	for _, c := range []struct {
		name    string
		o       Options
		request string
		fine    bool
		has     string // in the answer
	}{
		{"read: makes nothing", reading, "init-dir build\n", false, ""},
		{"append: makes its own", appending, "init-dir build\n", true, bupOK},
		{"append: and again", appending, "init-dir /build\nset-dir ~/build\nset-dir " + root + "/build\nset-dir\n", true, bupOK + bupOK + bupOK + bupOK},
		{"append: no other", appending, "init-dir other\n", false, ""},
		{"append: nor above", appending, "set-dir ../build\n", false, ""},
		{"append: saves", appending, up(one+two+alone) + move("refs/heads/t", id1, ""), true, bupOK},
		{"append: descendant", appending, move("refs/heads/t", id2, id1.String()), true, bupOK},
		{"append: no rewind", appending, move("refs/heads/t", id1, id2.String()), false, ""},
		{"append: no other history", appending, move("refs/heads/t", id3, id2.String()), false, ""},
		{"append: no stale move", appending, move("refs/heads/t", id3, ""), false, ""},
		{"append: tag", appending, move("refs/tags/v", id1, ""), true, bupOK},
		{"append: tag stays", appending, move("refs/tags/v", id2, id1.String()), false, ""},
		{"append: no deletion", appending, move("refs/heads/t", pack.ID{}, id2.String()), false, ""},
		{"append: nothing beside", appending, move("refs/notes/t", id2, ""), false, ""},
		{"append: no HEAD", appending, move("HEAD", id2, ""), false, ""},
		{"append: no config", appending, move("refs/heads/../../config", id2, ""), false, ""},
		{"append: no lock", appending, move("refs/heads/a.lock", id2, ""), false, ""},
		{"read: reads", reading, "cat t\nresolve 0\n\x02/tcat-batch\nt^{tree}\n\nrev-list\n\n\nt\n\n", true, "two\n"},
		{"read: writes no object", reading, up(one), false, ""},
		{"read: moves no ref", reading, move("refs/heads/u", id2, ""), false, ""},
		{"no-read: saves", blind, up(one) + "read-ref t\n" + move("refs/heads/u", id2, ""), true, id2.String()},
		{"no-read: no cat", blind, "cat t\n", false, ""},
		{"no-read: no join", blind, "join t\n", false, ""},
		{"no-read: no cat-batch", blind, "cat-batch\nt\n\n", false, ""},
		{"no-read: no resolve", blind, "resolve 0\n\x02/t", false, ""},
		{"no-read: no rev-list", blind, "rev-list\n\n\nt\n\n", false, ""},
		{"names: its own", named, move("refs/heads/web-1", id2, ""), true, bupOK},
		{"names: no other", named, move("refs/heads/db", id2, ""), false, ""},
		{"nobody: no such command", appending, "rm t\n", false, ""},
		{"nobody: idx elsewhere", appending, "send-index ../../config\n", false, ""},
	} {
		got, err := bupAsk(t, c.o, c.request)
		if c.fine != (err == nil) || !strings.Contains(got, c.has) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
		if !c.fine && strings.HasSuffix(got, bupOK) {
			t.Errorf("%s: it is told ok: %q", c.name, got)
		}
	}
	got, err := bupAsk(t, grant(access.Grant{Role: access.Append, NoRead: true, Names: []string{"web-*"}}), "refs 0 0\n\n")
	if want := fmt.Sprintf("%v refs/heads/web-1\n\n", id2) + bupOK; got != want || err != nil {
		t.Errorf("what one sees who may not read: %q, %v", got, err)
	}
	p, err := repo.OpenDir(context.Background(), filepath.Join(root, "build"), repo.DirOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if c := p.Config(); c.Version != 0 || c.Chunker != "rollsum:13" || c.ID == "" {
		t.Errorf("made by init-dir: %+v", c)
	}
}

func TestConfigGet(t *testing.T) {
	c := repo.Config{ID: "ab", Chunker: "rollsum:16", SplitTrees: true, PackSizeLimit: 1000, Compression: -1}
	for _, e := range []struct{ key, kind, want string }{
		{"bup.repo.id", "", "\x04\x02ab"},
		{"bup.split.files", "", "\x04\x09legacy:16"},
		{"bup.split.trees", "bool", "\x01"},
		{"bup.split.trees", "", "\x04\x04true"},
		{"pack.packsizelimit", "int", "\x03\xa8\x0f"},
		{"pack.packsizelimit", "", "\x04\x041000"},
		{"pack.compression", "int", "\x00"},
		{"core.compression", "int", "\x00"},
		{"core.worktree", "", "\x05"},
		{"", "", "\x05"},
	} {
		if got := appendConfig(nil, c, e.key, e.kind); string(got) != e.want {
			t.Errorf("%s %q: %q, want %q", e.key, e.kind, got, e.want)
		}
	}
	got, err := bupAsk(t, bupOwner(bupRepo(t)), "config-get\n\x0fbup.split.files\x00config-get\n\x10pack.compression\x03int")
	if got != "\x00"+bupOK+"\x00"+bupOK || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestVint(t *testing.T) {
	for n, want := range map[int64]string{
		0: "\x00", -1: "\x41", 63: "\x3f", 64: "\x80\x01", 33188: "\xa4\x86\x04",
		-1 << 63: "\xc0\x80\x80\x80\x80\x80\x80\x80\x80\x02",
	} {
		if got := appendVint(nil, n); string(got) != want {
			t.Errorf("%d: %x, want %x", n, got, want)
		}
	}
}

// A client that never ends its pack does not make the server's tables grow for ever.
func TestEndlessPack(t *testing.T) {
	if testing.Short() {
		t.Skip("a quarter of a million objects")
	}
	dir := bupRepo(t)
	var b strings.Builder
	b.WriteString("receive-objects-v2\n")
	enc, hasher := pack.NewEncoder(0), pack.NewHasher()
	var body, entry []byte
	for i := range maxPackObjects + 10 {
		body = fmt.Append(body[:0], i)
		id, err := hasher.Sum(pack.Blob, body)
		if err != nil {
			t.Fatal(err)
		}
		var crc uint32
		entry, crc = enc.Append(entry[:0], pack.Blob, body)
		b.WriteString(bupRecord(id, crc, entry))
	}
	b.WriteString(bupFinish)
	got, err := bupAsk(t, bupOwner(dir), b.String())
	lines := strings.Split(got, "\n")
	if err != nil || len(lines) != 5 || !strings.HasPrefix(lines[0], "index pack-") || !strings.HasPrefix(lines[1], "pack-") {
		t.Errorf("%q, %v", got, err)
	}
}
