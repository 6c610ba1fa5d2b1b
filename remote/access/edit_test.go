package access

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

func numberedKey(t testing.TB, n int, repo string) Key {
	t.Helper()
	pub := make(ed25519.PublicKey, ed25519.PublicKeySize)
	pub[0], pub[1] = byte(n), byte(n>>8)
	return Key{Public: publicOf(t, pub), Comment: fmt.Sprintf("key%d", n), Grant: Grant{Role: Append, Repos: []string{repo}}}
}

func TestAddKey(t *testing.T) {
	a, b := numberedKey(t, 1, "a"), numberedKey(t, 2, "b")
	file := "# what is ours\n\n" + string(a.Append(nil)) + "\n" +
		"environment=\"X=Y\" " + text(b.Public) + " by hand"
	got, err := AddKey([]byte(file), b)
	want := strings.Replace(file, "environment=\"X=Y\" "+text(b.Public)+" by hand", string(b.Append(nil))+"\n", 1)
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	a.Grant.Repos = []string{"other"}
	got, err = AddKey(append(got, text(a.Public)+"\n"...), a)
	if err != nil || bytes.Count(got, []byte(text(a.Public))) != 1 || !bytes.HasPrefix(got, []byte("# what is ours\n\nrestrict,command=\"kedge server --repo other")) {
		t.Errorf("%v\n%s", err, got)
	}
	if got := RemoveKey(got, a); string(got) != "# what is ours\n\n"+string(b.Append(nil))+"\n" {
		t.Errorf("after the removal:\n%s", got)
	}
	if got, err := AddKey(nil, a); err != nil || string(got) != string(a.Append(nil))+"\n" {
		t.Errorf("%v\n%s", err, got)
	}
	for _, bad := range []func(*Key){
		func(k *Key) { k.Comment = "two\nlines" },
		func(k *Key) { k.Comment = " blanks" },
		func(k *Key) { k.From = `*"` },
		func(k *Key) { k.From = "host" },
		func(k *Key) { k.Expires = "soon" },
		func(k *Key) { k.Grant.Repos = nil },
		func(k *Key) { k.Grant.Repos = []string{"../x"} },
		func(k *Key) { k.Grant = Grant{Role: Owner} },
		func(k *Key) { k.Grant.Root = "srv" },
	} {
		k := numberedKey(t, 3, "c")
		bad(&k)
		if got, err := AddKey([]byte(file), k); err == nil {
			t.Errorf("%+v is added:\n%s", k, got)
		}
	}
}

func TestLineOf(t *testing.T) {
	a, b, c := numberedKey(t, 1, "a"), numberedKey(t, 2, "b"), numberedKey(t, 3, "c")
	file := []byte("# " + text(a.Public) + "\n\n" + string(b.Append(nil)) + " " + text(c.Public) + "\r\n\topt=\"x\" " + text(a.Public) + "\n" + text(b.Public))
	for i, want := range map[*Key]int{&a: 4, &b: 3, &c: 0} {
		if n := LineOf(file, *i); n != want {
			t.Errorf("%s: line %d, want %d", i.Comment, n, want)
		}
	}
}

// What is no file is not replaced by one.
func TestEditOfALink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("real", dir+"/keys"); err != nil {
		t.Fatal(err)
	}
	err := Edit(&fsx.FS{}, dir+"/keys", func([]byte) ([]byte, error) { return []byte("x\n"), nil })
	if to, e := os.Readlink(dir + "/keys"); err == nil || to != "real" || e != nil {
		t.Errorf("%v, %q, %v", err, to, e)
	}
}

func TestParseKeyFile(t *testing.T) {
	for s, ok := range map[string]bool{
		testKey: true, testKey + " me\n": true, testKey + " me\r\n": true, "# x\n" + testKey: true,
		"": false, "# x\n": false, testKey + "\n" + testKey: false, bound + " " + testKey: false, "-----BEGIN OPENSSH PRIVATE KEY-----": false,
		"---- BEGIN SSH2 PUBLIC KEY ----": false, "ssh-dss AAAA": false, testKey + " \x1b": false, "\xff\xfe": false,
	} {
		if k, err := ParseKeyFile([]byte(s)); (err == nil) != ok || ok && k.Public == nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Those who edit at the same time do not lose each other's lines.
func TestEditTogether(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ssh", "authorized_keys")
	var wg sync.WaitGroup
	const n = 20
	for i := range n {
		wg.Go(func() {
			k := numberedKey(t, i, "x")
			if err := Edit(&fsx.FS{}, file, func(text []byte) ([]byte, error) { return AddKey(text, k) }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if keys, bad := ParseKeys(text); len(keys) != n || len(bad) != 0 {
		t.Errorf("%d keys, %v", len(keys), bad)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Wherever a change fails, the file is as it was or as it should be, and the next
// change succeeds.
func TestEditFaults(t *testing.T) {
	a, b := numberedKey(t, 1, "a"), numberedKey(t, 2, "b")
	for k := 0; ; k++ {
		file := filepath.Join(t.TempDir(), "authorized_keys")
		old := append(a.Append(nil), '\n')
		if err := os.WriteFile(file, old, 0o600); err != nil {
			t.Fatal(err)
		}
		n := 0
		files := &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
			if n++; n == k+1 {
				return syscall.EIO
			}
			return do()
		}}
		add := func(text []byte) ([]byte, error) { return AddKey(text, b) }
		err := Edit(files, file, add)
		text, readErr := os.ReadFile(file)
		if readErr != nil {
			t.Fatal(readErr)
		}
		whole := append(append(bytes.Clone(old), b.Append(nil)...), '\n')
		if !bytes.Equal(text, old) && !bytes.Equal(text, whole) || err == nil && !bytes.Equal(text, whole) {
			t.Errorf("fault %d: %v\n%s", k, err, text)
		}
		if err := Edit(&fsx.FS{}, file, add); err != nil {
			t.Errorf("after fault %d: %v", k, err)
		}
		if n <= k {
			break
		}
	}
	broken := errors.New("no")
	file := filepath.Join(t.TempDir(), "authorized_keys")
	if err := Edit(&fsx.FS{}, file, func([]byte) ([]byte, error) { return nil, broken }); err != broken {
		t.Error(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a change that was refused made the file")
	}
}
