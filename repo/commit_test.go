package repo

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

const treeLine = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n"
const whoLines = "author A U Thor <a@h> 1700000000 +0530\ncommitter C <c@h> 1700000001 -0000\n"

// signedCommit has a header of several lines, as git writes one for a signature.
const signedCommit = treeLine + "parent " + "2fe105dccfdd20674869b39ed8e4dddb80245498\n" + whoLines +
	"encoding latin1\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n abc\n -----END PGP SIGNATURE-----\n\nmessage\n\nKey: value"

func TestCommitRoundTrip(t *testing.T) {
	for _, body := range []string{
		signedCommit,
		treeLine + whoLines + "\n",
		treeLine + whoLines + "\nno line feed at the end",
		treeLine + "author  <@> 0 +0000\ncommitter <> -5 -0330\n\n\n\x00",
	} {
		c, err := ParseCommit([]byte(body))
		if err != nil {
			t.Errorf("%q: %v", body, err)
			continue
		}
		if got := string(c.Append(nil)); got != body {
			t.Errorf("came back as\n%q, was\n%q", got, body)
		}
		if err := c.Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestParseCommitFields(t *testing.T) {
	c, err := ParseCommit([]byte(signedCommit))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Parents) != 1 || c.Parents[0].String() != "2fe105dccfdd20674869b39ed8e4dddb80245498" {
		t.Errorf("parents %v", c.Parents)
	}
	if c.Author.Who != "A U Thor <a@h>" || c.Author.When.Format(time.RFC3339) != "2023-11-15T03:43:20+05:30" {
		t.Errorf("author %q, %v", c.Author.Who, c.Author.When)
	}
	if !strings.HasPrefix(c.Extra, "encoding latin1\ngpgsig ") || c.Message != "message\n\nKey: value" {
		t.Errorf("extra %q, message %q", c.Extra, c.Message)
	}
	if v, ok := c.Trailer("Key"); !ok || v != "value" {
		t.Errorf("trailer %q, %v", v, ok)
	}
}

func TestTrailer(t *testing.T) {
	c := Commit{Message: "kedge save\n\nKedge-Host: above\n\nKedge-Host: h one\nKedge-Files: 12\nKedge-Host: h two\n\n"}
	for _, k := range []struct {
		key, want string
		ok        bool
	}{{"Kedge-Host", "h two", true}, {"Kedge-Files", "12", true}, {"Kedge-Bytes", "", false}, {"Kedge", "", false}, {"kedge save", "", false}} {
		if got, ok := c.Trailer(k.key); got != k.want || ok != k.ok {
			t.Errorf("Trailer(%q) = %q, %v", k.key, got, ok)
		}
	}
	if _, ok := (&Commit{}).Trailer("x"); ok {
		t.Error("an empty message has a trailer")
	}
}

func TestParseCommitRefuses(t *testing.T) {
	many := strings.Repeat("parent 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n", maxParents+1)
	sig := func(s string) string { return treeLine + "author " + s + "\ncommitter C <c@h> 1 +0000\n\n" }
	for _, c := range []struct{ name, body, want string }{
		{"empty", "", "no tree line"},
		{"short id", "tree 4b82\n", "without an id"},
		{"upper case", "tree 4B825DC642CB6EB9A060E54BF8D69288FBEE4904\n", "without an id"},
		{"cut", treeLine[:20], "without an end"},
		{"no author", treeLine + "committer C <c@h> 1 +0000\n\n", "no author line"},
		{"parents", treeLine + many + whoLines + "\n", "more than 1000 parents"},
		{"no mail", sig("A 1 +0000"), "<login@host>"},
		{"NUL", sig("A\x00 <a@h> 1 +0000"), "<login@host>"},
		{"no time", sig("A <a@h>"), "without a time"},
		{"no blank", sig("A <a@h>1 +0000"), "without a time"},
		{"no zone", sig("A <a@h> 1"), "without a time"},
		{"zone of letters", sig("A <a@h> 1 +00x0"), "without a time"},
		{"zero padded", sig("A <a@h> 01 +0000"), "without a time"},
		{"plus", sig("A <a@h> +1 +0000"), "without a time"},
		{"2^63", sig("A <a@h> 9223372036854775808 +0000"), "without a time"},
		{"2^63-1", sig("A <a@h> 9223372036854775807 +0000"), "out of range"},
		{"no empty line", treeLine + whoLines, "no empty line"},
		{"second author", treeLine + whoLines + "author A <a@h> 1 +0000\n\n", "second author line"},
		{"late parent", treeLine + whoLines + "parent 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\n", "second parent line"},
		{"nothing to go on", treeLine + whoLines + " x\n\n", "not begun"},
		{"NUL in a header", treeLine + whoLines + "x \x00\n\n", "NUL"},
	} {
		_, err := ParseCommit([]byte(c.body))
		var corrupt *pack.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

// TestCommitInjection: nothing in a name or a header makes a second header.
func TestCommitInjection(t *testing.T) {
	base := Commit{Tree: mustID("4b825dc642cb6eb9a060e54bf8d69288fbee4904"),
		Author: Signature{"A <a@h>", time.Unix(1, 0)}, Committer: Signature{"A <a@h>", time.Unix(1, 0)}}
	if err := base.Check(); err != nil {
		t.Fatal(err)
	}
	evil := base
	evil.Author.Who = "A <a@h> 1 +0000\nparent 2fe105dccfdd20674869b39ed8e4dddb80245498\nauthor B\x00 <b@h>"
	if err := evil.Check(); err == nil {
		t.Error("a signature of several lines passed")
	}
	got := string(evil.Append(nil))
	if strings.Contains(got, "\nparent") || strings.Count(got, "\nauthor") != 1 || strings.Contains(got, "\x00") {
		t.Errorf("injected: %q", got)
	}
	for _, extra := range []string{"x y\n\nz\n", "author A <a@h> 1 +0000\n", "x", " x\n"} {
		evil = base
		evil.Extra = extra
		if err := evil.Check(); err == nil {
			t.Errorf("extra %q passed", extra)
		}
	}
}

// TestCommitAgainstGit: git makes the same commit, byte for byte.
func TestCommitAgainstGit(t *testing.T) {
	dir := newGit(t)
	tree := strings.TrimSpace(runGit(t, dir, "", "mktree"))
	parent := ""
	for i, zone := range []string{"UTC", "Asia/Kolkata", "America/St_Johns"} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Skip(err)
		}
		when := time.Unix(1700000000+int64(i), 0).In(loc)
		stamp := when.Format("@") + fmt.Sprint(when.Unix()) + when.Format(" -0700")
		args := []string{"-c", "user.name=Jörg X", "-c", "user.email=j@h", "commit-tree", tree, "-m", "kedge save"}
		c := Commit{Tree: mustID(tree), Author: Signature{"Jörg X <j@h>", when}, Message: "kedge save\n"}
		c.Committer = c.Author
		if parent != "" {
			args = append(args, "-p", parent)
			c.Parents = append(c.Parents, mustID(parent))
		}
		t.Setenv("GIT_AUTHOR_DATE", stamp)
		t.Setenv("GIT_COMMITTER_DATE", stamp)
		parent = strings.TrimSpace(runGit(t, dir, "", args...))
		body := c.Append(nil)
		if got := pack.Sum(pack.Commit, body).String(); got != parent {
			t.Fatalf("%s: commit is %s, git's is %s:\n%s%s", zone, got, parent, body, runGit(t, dir, "", "cat-file", "commit", parent))
		}
	}
}

func FuzzParseCommit(f *testing.F) {
	f.Add([]byte(signedCommit))
	f.Add([]byte(treeLine + whoLines + "\n"))
	f.Add([]byte(treeLine + "author <> -5 -0960\ncommitter a<b>c> 0 +9999\nx\n\n\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := ParseCommit(body)
		if err != nil {
			return
		}
		if got := c.Append(nil); string(got) != string(body) {
			t.Fatalf("came back as %q", got)
		}
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
	})
}
