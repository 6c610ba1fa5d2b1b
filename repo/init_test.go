package repo

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	gogit "github.com/go-git/go-git/v5"

	"github.com/kedgebackup/kedge/pack"
)

// TestInitForGit has git read every setting, and die if it knows one not or
// takes its value for nonsense.
func TestInitForGit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a/b/r.git")
	c, err := InitDir(context.Background(), dir, InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Version != 1 || c.Chunker != "rabin:13" || len(c.ID) != 31 || strings.Trim(c.ID, "abcdefghijklmnopqrstuvwxyz0123456789") != "" || c.Compression != -1 {
		t.Fatalf("%+v", c)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if perm := info.Mode().Perm(); perm&0o007 != 0 {
			t.Errorf("%s has mode %o", path, perm)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, dir)
	git(t, dir, "gc")
	for _, o := range hardening {
		if v := git(t, dir, "config", "--get", o.section+"."+o.key); v != o.value {
			t.Errorf("git reads %s.%s as %q", o.section, o.key, v)
		}
	}
	for key, want := range map[string]string{"core.bare": "true", "kedge.chunker": "rabin:13", "kedge.version": "1", "bup.repo.id": c.ID} {
		if v := git(t, dir, "config", "--get", key); v != want {
			t.Errorf("git reads %s as %q", key, v)
		}
	}
	if head := git(t, dir, "symbolic-ref", "HEAD"); head != "refs/heads/main" {
		t.Error("HEAD:", head)
	}
	if _, err := gogit.PlainOpen(dir); err != nil {
		t.Error("go-git:", err)
	}
}

// TestInitAgain: nothing that is there changes.
func TestInitAgain(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{Chunker: "gear:14"})
	s := makeSave("a", 5)
	if _, err := s.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "config"))
	if err != nil {
		t.Fatal(err)
	}
	own := strings.Replace(string(text), "fsync = all", "fsync = none # mine", 1)
	own = strings.Replace(own, "\tauto = 0\n", "", 1) + "[user]\n\tname = x"
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "kedge/closed"))
	os.Remove(filepath.Join(dir, "refs/tags"))
	for range 2 {
		c, err := InitDir(ctx, dir, InitOptions{Chunker: "rabin:13"})
		if err != nil {
			t.Fatal(err)
		}
		if c != p.Config() {
			t.Fatalf("%+v became %+v", p.Config(), c)
		}
	}
	text, _ = os.ReadFile(filepath.Join(dir, "config"))
	for _, line := range strings.Split(own, "\n") {
		if !strings.Contains(string(text)+"\n", line+"\n") {
			t.Errorf("%q is gone from the config:\n%s", line, text)
		}
	}
	if v := git(t, dir, "config", "--get", "gc.auto"); v != "0" {
		t.Errorf("gc.auto was not added: %q", v)
	}
	if v := git(t, dir, "config", "--get", "core.fsync"); v != "none" {
		t.Errorf("core.fsync was changed to %q", v)
	}
	if v := git(t, dir, "rev-parse", testRef); v != s.commit.String() {
		t.Error("the ref moved to", v)
	}
	git(t, dir, "for-each-ref", "refs/tags")
}

func TestInitExpect(t *testing.T) {
	for _, test := range []struct {
		o    InitOptions
		want string
	}{
		{InitOptions{}, "rabin:13"},
		{InitOptions{Expect: 1e12}, "rabin:13"},
		{InitOptions{Expect: 1e12 + 1}, "rabin:16"},
		{InitOptions{Expect: 30e12}, "rabin:16"},
		{InitOptions{Expect: 31e12}, "rabin:20"},
		{InitOptions{Expect: 31e12, Chunker: "gear:13"}, "gear:13"},
		{InitOptions{Chunker: "rollsum:13"}, ""}, // that is what repositories without a [kedge] section have
		{InitOptions{Chunker: "rabin:9"}, ""},
		{InitOptions{Chunker: "rabin:21"}, ""},
		{InitOptions{Chunker: "rabin"}, ""},
		{InitOptions{Chunker: "x\ny:13"}, ""},
	} {
		dir := filepath.Join(t.TempDir(), "r")
		c, err := InitDir(context.Background(), dir, test.o)
		if (err != nil) != (test.want == "") || c.Chunker != test.want {
			t.Errorf("%+v: %q, %v", test.o, c.Chunker, err)
		}
		if _, statErr := os.Stat(dir); err != nil && statErr == nil {
			t.Errorf("%+v: refused, but the directory was made", test.o)
		}
	}
}

// TestInitBup: a repository that bup made stays one.
func TestInitBup(t *testing.T) {
	bup, err := exec.LookPath("bup")
	if err != nil {
		t.Skip("no bup")
	}
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "b")
	if out, err := exec.Command(bup, "-d", dir, "init").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	for _, set := range []struct{ files, want string }{{"", "rollsum:13"}, {"legacy:16", "rollsum:16"}} {
		if set.files != "" {
			git(t, dir, "config", "bup.split.files", set.files)
		}
		c, err := InitDir(ctx, dir, InitOptions{Chunker: "rabin:13"})
		if err != nil || c.Version != 0 || c.Chunker != set.want || c.ID == "" {
			t.Fatalf("%+v %v", c, err)
		}
	}
	git(t, dir, "config", "bup.split.files", "legacy:99")
	if _, err := OpenDir(ctx, dir, DirOptions{}); err == nil {
		t.Error("legacy:99 was accepted")
	}
}

func TestOpenDir(t *testing.T) {
	ctx := context.Background()
	empty := t.TempDir()
	file := filepath.Join(empty, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{empty, filepath.Join(empty, "nothing"), file} {
		_, err := OpenDir(ctx, dir, DirOptions{})
		if nf := new(NotFoundError); !errors.As(err, &nf) || nf.What != "repository" || nf.Name != dir {
			t.Errorf("%s: %v", dir, err)
		}
	}
	work := t.TempDir()
	git(t, work, "init", "-q", ".")
	p, err := OpenDir(ctx, work, DirOptions{})
	if err != nil {
		t.Fatal("a repository in .git:", err)
	}
	p.Close()
	if err := p.Close(); err != nil {
		t.Error("closed twice:", err)
	}
	if err := p.Get(ctx, []pack.ID{{}}, nil); !errors.Is(err, ErrClosed) {
		t.Error("Get after Close:", err)
	}
	if _, err := p.Begin(ctx); !errors.Is(err, ErrClosed) {
		t.Error("Begin after Close:", err)
	}
	for _, bad := range []string{
		"[core]\n\trepositoryformatversion = 2\n",
		"[core]\n\trepositoryformatversion = 1\n[extensions]\n\tobjectFormat = sha256\n",
		"[core]\n\trepositoryformatversion = 1\n[extensions]\n\trefStorage = reftable\n",
		"[core]\n\trepositoryformatversion = 1\n[extensions]\n\tunheard = of\n",
		"[kedge]\n\tversion = 2\n\tchunker = rabin:13\n",
		"[kedge]\n\tchunker = rabin:13\n",
		"[kedge]\n\tversion = 1\n",
		"[kedge]\n\tversion = 1\n\tchunker = x\n",
		"[pack]\n\tcompression = 11\n",
		"[pack]\n\tpackSizeLimit = many\n",
		"[bup \"split\"]\n\ttrees = perhaps\n",
		"[core",
		"\x00",
		strings.Repeat("#\n", maxConfig),
	} {
		if err := os.WriteFile(filepath.Join(work, ".git/config"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := OpenDir(ctx, work, DirOptions{}); err == nil {
			t.Errorf("opened with %.60q", bad)
			p.Close()
		}
	}
}

func TestConfigValues(t *testing.T) {
	text := `
; a comment
[Kedge]
	Version = 1
	chunker = "gear:15"
	packObjects = 1k
[PACK] packSizeLimit = 2m
	compression = 3 # yes
[core]
	compression = 9
	repositoryformatversion = 1
[extensions]
	objectFormat = sha1
[bup "repo"]
	id = old
	id = new
[bup "split"]
	trees = yes
	files = legacy:21
`
	c, err := ParseConfig([]byte(text))
	want := Config{Version: 1, ID: "new", Chunker: "gear:15", SplitTrees: true, PackSizeLimit: 2 << 20, PackObjects: 1024, Compression: 3}
	if err != nil || c != want {
		t.Fatalf("%+v, %v; want %+v", c, err, want)
	}
}

// TestEditConfig compares with what git makes of the edited text.
func TestEditConfig(t *testing.T) {
	for _, text := range []string{
		"",
		"[core]\n",
		"[core]\n\tbare = true\n\n\n[gc]\n\tauto = 0\n",
		"[core]\n\tbare = true\n[CORE]\n\tx = y",
		"[core]\n\tx = a\\\n[gc]\n",
		"[core] x = y\n[gc]\n# comment\n",
		"[fsck \"core\"]\n\tx = y\r\n[core]\r\n\tx = y\r\n",
		"[core]\n\tx = \"[gc]\"\n",
	} {
		want := []option{{"core", "", "new", "1"}, {"gc", "", "auto", "7"}, {"a", "b c", "k", "v"}}
		got := editConfig([]byte(text), want)
		file := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
		before, err := decodeConfig([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range want {
			value := o.value
			if old := lastOption(before, o.section, o.sub, o.key); old != "" {
				value = old
			}
			key := o.section + "." + o.key
			if o.sub != "" {
				key = o.section + "." + o.sub + "." + o.key
			}
			if v := git(t, "/", "config", "-f", file, "--get", key); v != value {
				t.Errorf("%q became %q: git reads %s as %q", text, got, key, v)
			}
		}
		if v, err := tryGit("/", "config", "-f", file, "--get-all", "core.x"); strings.Contains(text, "x = ") && strings.Contains(strings.ToLower(text), "[core]\n\tx") && err != nil {
			t.Errorf("%q became %q: core.x is gone, %s", text, got, v)
		}
		if again := editConfig(got, want); string(again) != string(got) {
			t.Errorf("a second edit changed %q to %q", got, again)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("[core]\n\tbare = true\n[kedge]\n\tversion = 1\n\tchunker = rabin:13\n"))
	f.Add([]byte("[a \"b\\\"c\"] d = \"e\\n\" ; f\n\tg\n[bup \"split\"]\n\tfiles = legacy:14\n"))
	f.Add([]byte("[core]\nx=\\\n\n[include]\n\tpath = /etc/passwd\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig(text)
		if err != nil {
			return
		}
		edited := editConfig(text, []option{{"fsck", "", "hasDotgit", "ignore"}, {"core", "", "fsync", "all"}})
		again, err := ParseConfig(edited)
		if err != nil || again != c {
			t.Fatalf("%q with options added: %+v, %v; was %+v", text, again, err, c)
		}
	})
}
