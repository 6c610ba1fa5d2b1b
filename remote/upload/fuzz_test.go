package upload

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// FuzzLine parses lines of requests: what is taken can be written back byte for byte.
func FuzzLine(f *testing.F) {
	id := pack.Sum(pack.Blob, nil).String()
	for _, seed := range []string{
		"done", "done ", "want " + id, "want " + id + " ", "want " + id + " thin-pack agent=x", "have " + id, "have " + id + " ",
		"shallow " + id, "deepen 1", "deepen-since 1", "filter blob:none", "", "want", "want  " + id, "\x00", "want " + id[:39],
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, id, rest, err := parseLine(b)
		if err != nil {
			if _, ok := err.(*repo.RefusedError); !ok {
				t.Fatalf("%q: %v", b, err)
			}
			return
		}
		back := map[command]string{flush: "", done: "done", have: "have " + id.String(), want: "want " + id.String()}[c]
		if rest != nil {
			back += " " + string(rest)
		}
		if back != string(b) {
			t.Errorf("%q is read as %q", b, back)
		}
		if c == want {
			_, _ = parseFeatures(rest)
		}
	})
}

// FuzzServe gives whole requests to a server. Whatever comes it ends, and says no more
// than a pack, or why there is none.
func FuzzServe(f *testing.F) {
	dir, tips := newRepo(f, "refs/heads/main", "a", "b")
	r, err := repo.OpenDir(context.Background(), dir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		f.Fatal(err)
	}
	defer r.Close()
	first := "want " + tips[1].String()
	for _, lines := range [][]string{
		{first, "", "done"}, {first + caps, "", "done"}, {first + caps, "", "have " + tips[0].String(), "", "done"},
		{first + caps + " no-done", "", "have " + tips[0].String(), "have " + tips[1].String(), ""},
		{first, "", "have " + tips[0].String(), "", "have " + tips[0].String(), "done"}, {""}, {first, "deepen 1", "", "done"},
		{first + caps, "filter blob:none", "", "done"}, {first + " include-tag", first, "", "", "", "done"},
	} {
		text := ""
		for _, l := range lines {
			text += line4(l)
		}
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		var out bytes.Buffer
		at := time.Now()
		err := Serve(context.Background(), struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(request), &out}, r, Options{})
		if d := time.Since(at); d > 5*time.Second {
			t.Errorf("%v", d)
		}
		said := out.String()
		said = said[strings.Index(said, "0000")+4:]
		switch {
		case err == nil && said != "" && !strings.Contains(said, "PACK\x00\x00\x00\x02"):
			t.Errorf("%q: no error, no pack: %q", request, said)
		case err != nil && !strings.Contains(said, "ERR "):
			t.Errorf("%q: %v, and not told: %q", request, err, said)
		}
	})
}
