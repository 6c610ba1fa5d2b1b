package pack

import (
	"crypto/sha1"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pjbgf/sha1cd"
)

func TestParseID(t *testing.T) {
	const hex = "0123456789abcdef0123456789abcdef01234567"
	id, err := ParseID(hex)
	if err != nil || id.String() != hex || string(id.AppendHex([]byte("x"))) != "x"+hex {
		t.Fatal(id, err)
	}
	for _, bad := range []string{"", hex[1:], hex + "0", strings.ToUpper(hex), "g" + hex[1:], " " + hex[1:], hex[1:] + "\n", hex[1:] + "/", hex[1:] + ":", hex[1:] + "`"} {
		if id, err := ParseID(bad); err == nil || !id.IsZero() {
			t.Errorf("%q is taken for %v", bad, id)
		}
	}
}

func TestCutID(t *testing.T) {
	id := Sum(Blob, []byte("x"))
	b := append(id.AppendBytes(nil), "rest"...)
	got, rest, ok := CutID(b)
	if !ok || got != id || string(rest) != "rest" {
		t.Error(got, rest, ok)
	}
	if got, rest, ok := CutID(b[:19]); ok || !got.IsZero() || len(rest) != 19 {
		t.Error(got, rest, ok)
	}
	if id.IsZero() || !(ID{}).IsZero() {
		t.Error("IsZero")
	}
}

func TestCompare(t *testing.T) {
	var low, high ID
	low.h[19], high.h[0] = 255, 1
	ids := []ID{high, {}, low}
	slices.SortFunc(ids, ID.Compare)
	if ids[0] != (ID{}) || ids[1] != low || ids[2] != high {
		t.Error(ids)
	}
}

// TestSum compares with ids that git printed for the same bytes.
func TestSum(t *testing.T) {
	for _, c := range []struct {
		t    Type
		body string
		want string
	}{
		{Blob, "", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"},
		{Tree, "", "4b825dc642cb6eb9a060e54bf8d69288fbee4904"},
		{Blob, "hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"},
	} {
		for name, h := range map[string]*Hasher{"fast": NewHasher(), "guard": NewGuard()} {
			for range 2 {
				if id, err := h.Sum(c.t, []byte(c.body)); err != nil || id.String() != c.want {
					t.Errorf("%s: %v %q: %v, %v, want %s", name, c.t, c.body, id, err, c.want)
				}
			}
		}
	}
	for _, o := range samples(30) {
		if id, err := NewGuard().Sum(o.t, o.body); err != nil || id != Sum(o.t, o.body) {
			t.Errorf("guard says %v, %v", id, err)
		}
	}
}

// TestAttack feeds the two files of the Shambles attack, which have one SHA-1
// between them, to the hash that a Guard is made of. As objects they are no
// attack, because git's header stands in front; they get their own ids.
func TestAttack(t *testing.T) {
	var files [2][]byte
	for i, name := range []string{"testdata/sha-mbles-1.bin", "testdata/sha-mbles-2.bin"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = b
	}
	if sha1.Sum(files[0]) != sha1.Sum(files[1]) || string(files[0]) == string(files[1]) {
		t.Fatal("the test data are no collision")
	}
	for _, b := range files {
		g := NewGuard()
		g.h.Write(b)
		if _, attack := g.guard.CollisionResistantSum(nil); !attack {
			t.Error("the attack is not seen")
		}
		id, err := g.Sum(Blob, b)
		if err != nil || id != Sum(Blob, b) {
			t.Error("after an attack the guard says", id, err)
		}
	}
	if Sum(Blob, files[0]) == Sum(Blob, files[1]) {
		t.Error("as objects they collide")
	}
	h := &Hasher{guard: alarmed{sha1cd.New().(sha1cd.CollisionResistantHash)}}
	h.h = h.guard
	id, err := h.Sum(Tag, []byte("x"))
	if !id.IsZero() || !errors.Is(err, ErrCollision) || !strings.Contains(err.Error(), Sum(Tag, []byte("x")).String()) {
		t.Error(id, err)
	}
}

// alarmed is a hash that always sees an attack.
type alarmed struct{ sha1cd.CollisionResistantHash }

func (a alarmed) CollisionResistantSum(b []byte) ([]byte, bool) {
	sum, _ := a.CollisionResistantHash.CollisionResistantSum(b)
	return sum, true
}

func TestTypeString(t *testing.T) {
	for typ, want := range map[Type]string{Commit: "commit", Tree: "tree", Blob: "blob", Tag: "tag", 0: "type 0", 7: "type 7"} {
		if typ.String() != want {
			t.Errorf("%d is %q, want %q", typ, typ.String(), want)
		}
	}
}
