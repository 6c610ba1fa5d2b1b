package save

import (
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
)

// directories is an index that has every path, as a directory, but for those that
// end in ".sql".
func directories(path string) (*rootRecord, error) {
	if strings.HasSuffix(path, ".sql") {
		return nil, nil
	}
	return &rootRecord{Record: index.Record{Path: path, Stat: fsx.Stat{Mode: 0o040755}, Flags: index.Exists}}, nil
}

// itself is what directories has of a path and below: the path.
func itself(path string) ([]*rootRecord, error) {
	rec, err := directories(path)
	if rec == nil {
		return nil, err
	}
	return []*rootRecord{rec}, nil
}

// Where paths of the index come to stand, and which of them may be marked.
func TestPlanPlaces(t *testing.T) {
	for _, c := range []struct {
		name  string
		o     Options
		place map[string]string // path in the index → path in the saved tree
		pure  map[string]bool
		real  map[string]string
	}{
		{
			name:  "as it is",
			o:     Options{Roots: []string{"/srv/w", "/etc"}},
			place: map[string]string{"/srv/w/x": "/srv/w/x", "/etc": "/etc"},
			pure:  map[string]bool{"/srv/w": true, "/etc": true},
			real:  map[string]string{"/": "/", "/srv": "/srv"},
		},
		{
			name:  "a root inside a root is one source",
			o:     Options{Roots: []string{"/srv/w", "/srv"}},
			place: map[string]string{"/srv/w/x": "/srv/w/x"},
			pure:  map[string]bool{"/srv": true, "/srv/w": true},
		},
		{
			name:  "strip",
			o:     Options{Roots: []string{"/srv/w"}, Strip: true},
			place: map[string]string{"/srv/w/x": "/x", "/srv/w": "/"},
			pure:  map[string]bool{"/srv/w": true},
		},
		{
			name:  "strip of two meets at the root",
			o:     Options{Roots: []string{"/srv/w", "/etc"}, Strip: true},
			place: map[string]string{"/srv/w/x": "/x", "/etc/y": "/y"},
			pure:  map[string]bool{"/srv/w": false, "/etc": false, "/etc/y": true},
		},
		{
			name:  "strip takes the longest of nested roots",
			o:     Options{Roots: []string{"/a", "/a/b"}, Strip: true},
			place: map[string]string{"/a/x": "/x", "/a/b/y": "/y"},
			pure:  map[string]bool{"/a": false, "/a/b": false},
		},
		{
			name:  "strip-path",
			o:     Options{Roots: []string{"/srv/w", "/etc"}, StripPath: "/srv"},
			place: map[string]string{"/srv/w/x": "/w/x", "/etc/y": "/etc/y"},
			pure:  map[string]bool{"/srv/w": true, "/etc": true},
			real:  map[string]string{"/": ""}, // /srv by one, / by the other
		},
		{
			name:  "graft cuts a source out of another",
			o:     Options{Roots: []string{"/"}, Graft: [][2]string{{"/usr/local", "/opt/l"}}},
			place: map[string]string{"/usr/bin": "/usr/bin", "/usr/local/x": "/opt/l/x"},
			pure:  map[string]bool{"/": false, "/usr": false, "/usr/local": true, "/usr/bin": true, "/opt": false},
		},
		{
			name:  "a stream makes the directories it lies in impure",
			o:     Options{Roots: []string{"/var"}, Streams: []Stream{{Path: "/var/lib/db/all.sql"}}},
			place: map[string]string{"/var/lib": "/var/lib"},
			pure:  map[string]bool{"/var": false, "/var/lib": false, "/var/log": true},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := newPlan(&c.o, directories, itself)
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range c.place {
				if got := p.find(p.root(name), name).place(name); got != want {
					t.Errorf("%s stands at %s, want %s", name, got, want)
				}
			}
			for name, want := range c.pure {
				if got := p.pure(p.find(p.root(name), name), name); got != want {
					t.Errorf("pure(%s) = %v", name, got)
				}
			}
			for dir, want := range c.real {
				if got := p.real[dir]; got != want {
					t.Errorf("metadata of %s comes from %q, want %q", dir, got, want)
				}
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, o := range []Options{
		{},
		{Roots: []string{"relative"}},
		{Roots: []string{"/a/../b"}},
		{Streams: []Stream{{Path: "x"}}},
		{Streams: []Stream{{Path: "/"}}},
		{Streams: []Stream{{Path: "/x"}, {Path: "/x"}}},
		{Streams: []Stream{{Path: "/x\x00y"}}},
	} {
		if _, err := newPlan(&o, directories, itself); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
