package server

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/access"
)

// FuzzBup has clients of all roles send whatever it is. The server must neither panic nor
// hang, nor leave anything behind, and what is not a client's to change stays.
func FuzzBup(f *testing.F) {
	root := f.TempDir()
	dir := filepath.Join(root, "build")
	setUp := bupOwner(dir)
	one, id := bupSave("one\n")
	made, err := bupAsk(f, setUp, "init-dir "+dir+"\nreceive-objects-v2\n"+one+bupFinish+"update-ref refs/heads/t\n"+id.String()+"\n\n")
	if err != nil {
		f.Fatal(err)
	}
	idx := made[len(ok4):][:strings.Index(made[len(ok4):], "\n")]
	two, next := bupSave("two\n", id)
	blob, _ := bupObject(pack.Blob, "blob")
	for _, s := range []string{
		"help\nset-dir build\nlist-indexes\nread-ref refs/heads/t\n",
		"receive-objects-v2\n" + two + bupFinish + "update-ref refs/heads/t\n" + next.String() + "\n" + id.String() + "\n",
		"receive-objects-v2\n" + blob + blob + bupSuspend + "list-indexes\nreceive-objects-v2\n" + bupFinish + "quit\n",
		"send-index " + idx + "\ncat t\njoin t:a\ncat t~9\ncat-batch\nt^{tree}\nt^\n" + id.String()[:6] + "\nt:a\n\n",
		"refs 1 0\n\nrefs 0 1\nt\n\nrev-list\n\n%T %at\nt\n\nrev-list\n\n\nt\n\n",
		"resolve 3\n\x0at/latest/a", "resolve 7\n\x02\x00\x01\x04Root\x00\xed\x83\x01\x01t\x00\x08latest/a",
		"resolve 5\n\x01\x00\x01\x04Item\x01\x14aaaaaaaaaaaaaaaaaaaa\x0a\x03abc\x00\x00",
		"config-get\n\x0bbup.repo.id\x00config-get\n\x10pack.compression\x03int",
		"init-dir build\nset-dir ../build\nupdate-ref refs/tags/x\n" + id.String() + "\n\n",
		"receive-objects-v2\n\xff\xff\xff\xfe", "kedge 1\n", "\n\n  \nquit\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, requests string) {
		head, err := os.ReadFile(filepath.Join(dir, "refs/heads/t"))
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range []access.Grant{
			{Role: access.Read}, {Role: access.Append, NoRead: true, Names: []string{"u"}}, {Role: access.Append, Names: []string{"v"}},
		} {
			g.Root, g.Repos, g.Who = root, []string{"build"}, "fuzz"
			_, err := bupAsk(t, Options{Grant: g}, requests)
			if errors.Is(err, io.EOF) {
				t.Errorf("an end that is said to be none: %v", err)
			}
		}
		if now, err := os.ReadFile(filepath.Join(dir, "refs/heads/t")); err != nil || string(now) != string(head) {
			t.Fatalf("the ref is at %q, it was at %q", now, head)
		}
		for _, left := range []string{"kedge/tmp/*", "kedge/sessions/*", "refs/notes", "../*"} {
			list, _ := filepath.Glob(filepath.Join(dir, left))
			if len(list) > 0 && (left != "../*" || len(list) > 1) {
				t.Fatalf("left over: %v", list)
			}
		}
	})
}
