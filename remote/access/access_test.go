package access

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

func TestRights(t *testing.T) {
	for _, tt := range []struct {
		g    Grant
		want wire.Rights
	}{
		{Grant{}, 0},
		{Grant{Role: 99}, 0},
		{Grant{Role: Read}, wire.MayRead},
		{Grant{Role: Append}, wire.MayAppend | wire.MayRead},
		{Grant{Role: Append, NoRead: true}, wire.MayAppend},
		{Grant{Role: Mirror}, wire.MayRead | wire.MayMirror},
		{Grant{Role: Owner}, wire.MayRead | wire.MayAppend | wire.MayMirror | wire.MayRewind},
	} {
		if got := tt.g.Rights(); got != tt.want {
			t.Errorf("%v %v: %b, want %b", tt.g.Role, tt.g.NoRead, got, tt.want)
		}
	}
}

// newRoot makes a root with the repositories build and web, a directory that is none, a
// file, a hidden repository and a link out.
func newRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "srv")
	for _, dir := range []string{"build", "web", "web2", ".kedge", "empty"} {
		if err := os.MkdirAll(filepath.Join(root, dir, "objects", "pack"), 0o700); err != nil {
			t.Fatal(err)
		}
		if dir == "empty" {
			continue
		}
		if err := os.WriteFile(filepath.Join(root, dir, "config"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("build", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	return root
}

// Every path that a grant does not name has the same answer.
func TestResolve(t *testing.T) {
	root := newRoot(t)
	one := Grant{Role: Append, Root: root, Repos: []string{"build"}}
	for _, path := range []string{"", "build", "/build", root + "/build", "~/build", "build/", "/build//", root + "/build/", "~/build/"} {
		if dir, name, err := one.Resolve(path); dir != filepath.Join(root, "build") || name != "build" || err != nil {
			t.Errorf("%q: %q %q %v", path, dir, name, err)
		}
	}
	for _, path := range []string{
		"web", "/web", root + "/web", "nope", "/nope", "/", "~", "~/", ".", "..", "../build", "./build", "build/.", "build/..", "build/../web",
		"//build", "/srv/build", root, root + "/", root + "//build", root + "/../srv/build", "build.git", "build/.git", "buil", "build2", "BUILD", "build ",
		"%62uild", "%2e%2e/build", "build\x00", "build\n", "~backup/build", "~/../build", ".kedge", "/.kedge", "/etc/passwd", "-build", "b*", "build\xff",
		"link", "file", "empty/..", strings.Repeat("x", 1<<20), strings.Repeat("../", 1000) + "etc",
	} {
		dir, name, err := one.Resolve(path)
		var nf *repo.NotFoundError
		if dir != "" || name != "" || !errors.Is(err, ErrNoRepo) || !errors.As(err, &nf) || nf.What != "repository" {
			t.Errorf("%.40q: %q %q %v", path, dir, name, err)
		} else if len(nf.Name) > 300 {
			t.Errorf("an answer of %d bytes", len(nf.Name))
		}
	}

	many := Grant{Role: Read, Root: root, Repos: []string{"web*", "new"}}
	for path, want := range map[string]string{"web": "web", "/web2": "web2", "~/new": "new", "webx": "webx"} {
		if _, name, err := many.Resolve(path); name != want || err != nil {
			t.Errorf("%q: %q, %v", path, name, err)
		}
	}
	for _, path := range []string{"", "build", "web/2", "web/../build"} {
		if _, _, err := many.Resolve(path); !errors.Is(err, ErrNoRepo) {
			t.Errorf("%q: %v", path, err)
		}
	}

	for _, g := range []Grant{{Root: root, Repos: []string{"build"}}, {Root: root}, {Role: Append, Root: root}, {Role: Mirror, Root: root, Repos: []string{"["}}} {
		for _, path := range []string{"", "build", "["} {
			if _, _, err := g.Resolve(path); !errors.Is(err, ErrNoRepo) {
				t.Errorf("%+v: %q: %v", g, path, err)
			}
		}
	}
}

// What stands at the name of a repository and is none is not followed.
func TestResolveLink(t *testing.T) {
	root := newRoot(t)
	for name, want := range map[string]string{"link": "is a symbolic link", "file": "no such repository"} {
		g := Grant{Role: Append, Root: root, Repos: []string{name}}
		if _, _, err := g.Resolve(""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	all := Grant{Role: Mirror, Root: root, Repos: []string{"*"}}
	var refused *repo.RefusedError
	if _, _, err := all.Resolve("link"); !errors.As(err, &refused) {
		t.Errorf("%v", err)
	}
}

// An owner goes where the user could go without kedge.
func TestResolveOwner(t *testing.T) {
	g := Grant{Role: Owner, Root: "/srv"}
	for path, want := range map[string]string{
		"": "", "x": "/srv/x", "~/x": "/srv/x", "~": "/srv", "/x": "/x", "../x": "/x", "/x/../y/": "/y", "~//x": "/srv/x", "a/.kedge": "/srv/a/.kedge",
	} {
		if dir, _, err := g.Resolve(path); dir != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", path, dir, err, want)
		}
	}
	if _, _, err := g.Resolve("a\x00b"); !errors.Is(err, ErrNoRepo) {
		t.Errorf("NUL: %v", err)
	}
}

func TestRepositories(t *testing.T) {
	root := newRoot(t)
	for _, tt := range []struct {
		g    Grant
		want []string
	}{
		{Grant{Role: Append, Repos: []string{"build"}}, []string{"build"}},
		{Grant{Role: Append, Repos: []string{"empty"}}, nil},
		{Grant{Role: Append, Repos: []string{"link"}}, nil},
		{Grant{Role: Mirror, Repos: []string{"*"}}, []string{"build", "web", "web2"}},
		{Grant{Role: Read, Repos: []string{"we?", "nope"}}, []string{"web"}},
		{Grant{Role: Owner}, []string{"build", "web", "web2"}},
		{Grant{Repos: []string{"*"}}, nil},
		{Grant{Repos: []string{"build"}}, nil},
	} {
		tt.g.Root = root
		if got, err := tt.g.Repositories(context.Background()); !reflect.DeepEqual(got, tt.want) || err != nil {
			t.Errorf("%v %v: %v, %v", tt.g.Role, tt.g.Repos, got, err)
		}
	}
	g := Grant{Role: Mirror, Repos: []string{"*"}, Root: filepath.Join(root, "nowhere")}
	if _, err := g.Repositories(context.Background()); err == nil {
		t.Error("a root that is not there lists")
	}
}

func TestAllowed(t *testing.T) {
	limited := Grant{Role: Append, Names: []string{"web-*", "host/?", "refs/tags/v*"}}
	for _, tt := range []struct {
		g    Grant
		ref  string
		want bool
	}{
		{Grant{Role: Append}, "refs/heads/x", true},
		{Grant{Role: Append}, "refs/tags/x", true},
		{Grant{Role: Append}, "refs/kedge/x", false},
		{Grant{Role: Append}, "HEAD", false},
		{Grant{Role: Append}, "refs/headsx", false},
		{Grant{Role: Read}, "refs/heads/x", false},
		{Grant{Role: Mirror}, "refs/heads/x", false},
		{Grant{}, "refs/heads/x", false},
		{Grant{Role: Owner}, "refs/any/x", true},
		{limited, "refs/heads/web-a", true},
		{limited, "refs/heads/web-a/b", false},
		{limited, "refs/heads/host/1", true},
		{limited, "refs/heads/host/12", false},
		{limited, "refs/heads/x", false},
		{limited, "refs/tags/v1", true},
		{limited, "refs/tags/web-a", false},
		{Grant{Role: Append, Names: []string{"["}}, "refs/heads/[", false},
	} {
		err := tt.g.Allowed(tt.ref)
		var refused *repo.RefusedError
		if (err == nil) != tt.want || err != nil && !errors.As(err, &refused) {
			t.Errorf("%v %v %s: %v", tt.g.Role, tt.g.Names, tt.ref, err)
		}
	}
}
