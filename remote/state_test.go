package remote

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// TestJoinState: a state is put together from what is known and what came, and nothing that
// does not fit is believed.
func TestJoinState(t *testing.T) {
	refs := []repo.Ref{{Name: "refs/heads/x", ID: pack.Sum(pack.Blob, nil)}}
	known := repo.State{Config: []byte("config"), Receipts: []byte("one\n"), Pins: []byte("pin\n")}
	part := func(name string, size, from int64, text string) wire.Part {
		return wire.Part{Name: name, Size: size, From: from, Bytes: []byte(text)}
	}
	for _, test := range []struct {
		what  string
		files []wire.Part
		want  string // config|receipts|pins
		whole bool
		bad   string
	}{
		{"nothing changed", []wire.Part{part("config", 6, 6, ""), part("kedge/receipts", 4, 4, ""), part("kedge/pins", 4, 4, "")}, "config|one\n|pin\n", true, ""},
		{"a line more", []wire.Part{part("config", 6, 6, ""), part("kedge/receipts", 8, 4, "two\n")}, "config|one\ntwo\n|", true, ""},
		{"other bytes", []wire.Part{part("config", 5, 0, "other")}, "other||", true, ""},
		{"not all", []wire.Part{part("config", 6, 6, ""), part("kedge/receipts", 100, 4, "two\n")}, "config|one\ntwo\n|", false, ""},
		{"another file", []wire.Part{part("kedge/../../x", 1, 0, "x")}, "", false, "no file of it"},
		{"not of a state", []wire.Part{part("HEAD", 1, 0, "x")}, "", false, "no file of it"},
		{"twice", []wire.Part{part("config", 1, 0, "x"), part("config", 1, 0, "y")}, "", false, "no file of it"},
		{"elsewhere", []wire.Part{part("config", 10, 3, "x")}, "", false, "begins elsewhere"},
		{"behind the end", []wire.Part{part("config", 10, 7, "x")}, "", false, "begins elsewhere"},
		{"endless", []wire.Part{part("kedge/receipts", 1<<40, 4, "x")}, "", false, "more than"},
	} {
		s, whole, err := joinState(&known, &wire.StateReply{Head: "refs/heads/main", Refs: refs, Files: test.files})
		if test.bad != "" {
			if err == nil || !strings.Contains(err.Error(), test.bad) {
				t.Errorf("%s: %v", test.what, err)
			}
			continue
		}
		got := string(bytes.Join([][]byte{s.Config, s.Receipts, s.Pins}, []byte("|")))
		if err != nil || got != test.want || whole != test.whole || s.Head != "refs/heads/main" || len(s.Refs) != 1 {
			t.Errorf("%s: %q, %v, %v", test.what, got, whole, err)
		}
	}
	if string(known.Config) != "config" || string(known.Receipts) != "one\n" {
		t.Error("what was known has changed")
	}
}
