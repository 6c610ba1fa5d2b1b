package upload

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const caps = " multi_ack_detailed side-band-64k no-progress"

// TestConversation is a whole conversation, word for word, the example of the package doc.
func TestConversation(t *testing.T) {
	dir, tips := newRepo(t, "refs/heads/main", "a")
	c := dial(t, dir, Options{Protocol: "version=1"})
	want := []string{
		"version 1\n",
		tips[0].String() + " HEAD\x00multi_ack_detailed no-done side-band-64k thin-pack ofs-delta include-tag no-progress symref=HEAD:refs/heads/main object-format=sha1 agent=kedge\n",
		tips[0].String() + " refs/heads/main\n",
	}
	if got := c.hear(); strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("refs: %q\nwant %q", got, want)
	}
	c.say("want "+tips[0].String()+" side-band-64k no-progress\n", "", "done\n")
	if l, _ := c.one(); l != "NAK\n" {
		t.Errorf("after done: %q", l)
	}
	l, _ := c.one()
	if !strings.HasPrefix(l, "\x01PACK\x00\x00\x00\x02\x00\x00\x00\x16") { // 22 objects
		t.Errorf("a pack begins with %.20q", l)
	}
	// The lengths that the package doc has.
	for _, x := range []struct {
		line string
		want string
	}{
		{want[0], "000e"}, {want[1], "00c2"}, {want[2], "003d"}, {"want " + tips[0].String() + " side-band-64k no-progress\n", "004c"}, {l, "03c6"},
	} {
		if got := line4(x.line)[:4]; got != x.want {
			t.Errorf("%.20q: length %s, not %s", x.line, got, x.want)
		}
	}
	if l, ok := c.one(); l != "" || !ok {
		t.Errorf("after the pack: %q, %v", l, ok)
	}
	if err := c.end(); err != nil {
		t.Error(err)
	}
	if l, ok := c.one(); ok {
		t.Errorf("after the end: %q", l)
	}
}

// TestNegotiation has all that is said before a pack.
func TestNegotiation(t *testing.T) {
	dir, tips := newRepo(t, "refs/heads/main", "a", "b", "c", "d")
	save(t, dir, "refs/heads/side", pack.ID{}, "s")
	git(t, "-C", dir, "tag", "-a", "-m", "t", "t", tips[1].String())
	id := func(rev string) string { return strings.TrimSpace(git(t, "-C", dir, "rev-parse", rev)) }
	const none = "1234567890123456789012345678901234567890"
	all := "want " + id("main") + caps
	for _, x := range []struct {
		name string
		say  []string
		want string // what is answered, and how many objects come
	}{
		{"a clone", []string{all, "", "done"}, "NAK 88"},
		{"with a newline", []string{all + "\n", "", "done\n"}, "NAK 88"},
		{"one commit", []string{all, "", "have " + id("main~1"), "", "done"}, "ACK common,ACK ready,NAK,ACK 22"},
		{"without a flush", []string{all, "", "have " + id("main~1"), "done"}, "ACK common,ACK 22"},
		{"not known here", []string{all, "", "have " + none, "", "have " + none, "", "done"}, "NAK,NAK,NAK 88"},
		{"in the second batch", []string{all, "", "have " + none, "", "have " + id("main~2"), "", "done"}, "NAK,ACK common,ACK ready,NAK,ACK 44"},
		{"the first commit", []string{all, "", "have " + id("main~3"), "", "done"}, "ACK common,ACK ready,NAK,ACK 66"},
		{"two, one after the other", []string{all, "", "have " + id("main~3"), "", "have " + id("main~1"), "", "done"}, "ACK common,ACK ready,NAK,ACK common,NAK,ACK 22"},
		{"the newer first", []string{all, "", "have " + id("main~1"), "have " + id("main~3"), "", "done"}, "ACK common,ACK common,ACK ready,NAK,ACK 22"},
		{"all of it", []string{all, "", "have " + id("main"), "", "done"}, "ACK common,ACK ready,NAK,ACK 0"},
		{"two wants, one reached", []string{all, "want " + id("side"), "", "have " + id("main~1"), "", "done"}, "ACK common,NAK,ACK 44"},
		{"two wants, both reached", []string{all, "want " + id("side"), "", "have " + id("main~1"), "have " + id("side"), "", "done"}, "ACK common,ACK common,ACK ready,NAK,ACK 22"},
		{"one want twice", []string{all, "want " + id("main"), "", "done"}, "NAK 88"},
		{"a tag", []string{"want " + id("t") + caps, "", "done"}, "NAK 45"},
		{"the commit of a tag", []string{"want " + id("t^{}") + caps, "", "done"}, "NAK 44"},
		{"and its tag", []string{"want " + id("t^{}") + caps + " include-tag", "", "done"}, "NAK 45"},
		{"a tag as a have", []string{all, "", "have " + id("t"), "", "done"}, "ACK common,ACK ready,NAK,ACK 44"},
		{"trees and blobs tell nothing", []string{all, "", "have " + id("main^{tree}"), "have " + id("main:000001"), "", "done"}, "NAK,NAK 88"},
		{"no-done", []string{all + " no-done", "", "have " + id("main~1"), ""}, "ACK common,ACK ready,NAK,ACK 22"},
		{"no-done, with nothing in common", []string{all + " no-done", "", "have " + none, "", "done"}, "NAK,NAK 88"},
		{"without multi_ack", []string{"want " + id("main") + " side-band-64k no-progress", "", "have " + none, "", "have " + id("main~1"), "have " + id("main~2"), "", "done"}, "NAK,ACK 22"},
		{"without multi_ack, with nothing in common", []string{"want " + id("main") + " side-band-64k no-progress", "", "have " + none, "", "done"}, "NAK,NAK 88"},
		{"thin-pack, ofs-delta, an agent", []string{all + " thin-pack ofs-delta agent=git/2.39.5 object-format=sha1", "", "done"}, "NAK 88"},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := dial(t, dir, Options{})
			c.hear()
			c.say(x.say...)
			var answers []string
			var got string
			for {
				l, ok := c.one()
				if !ok {
					t.Fatalf("it ends after %q", answers)
				}
				if rest, ok := strings.CutPrefix(l, "\x01PACK\x00\x00\x00\x02"); ok {
					got = fmt.Sprintf("%s %d", strings.Join(answers, ","), int(rest[2])<<8|int(rest[3]))
					break
				}
				words := strings.Fields(l)
				if len(words) > 1 {
					words = append(words[:1], words[2:]...) // without the id
				}
				answers = append(answers, strings.Join(words, " "))
			}
			if got != x.want {
				t.Errorf("got  %s\nwant %s", got, x.want)
			}
			_, _ = io.Copy(io.Discard, c)
			if err := c.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHostile sends what no client of git's does. All is refused by name, at once.
func TestHostile(t *testing.T) {
	dir, tips := newRepo(t, "refs/heads/main", "a", "b")
	first := "want " + tips[1].String() + caps
	const none = "1234567890123456789012345678901234567890"
	lines := func(l ...string) (s string) {
		for _, l := range l {
			s += line4(l)
		}
		return s
	}
	manyWants := line4(first) + strings.Repeat(line4("want "+tips[1].String()), maxWants)
	manyHaves := lines(first, "") + strings.Repeat(line4("have "+none), maxHaves+1)
	for _, x := range []struct{ name, send, want string }{
		{"no length", "want", "no length"},
		{"a negative length", "-001want", "no length"},
		{"a length of one", "0001", "no length"},
		{"a length of four", "0004", "no length"},
		{"a length above all", "ffff" + strings.Repeat("x", 65531), "no length"},
		{"upper case and blanks", " 0A ", "no length"},
		{"a long line", line4(first + strings.Repeat(" thin-pack", 1000)), "a line of 10090 bytes"},
		{"a long second line", lines(first, "want "+strings.Repeat("1", 2000)), "a line of 2005 bytes"},
		{"a word", line4("hello"), `"hello" is no line`},
		{"what git would write of an empty line", "0005\n", "is no line"},
		{"binary", line4("\x00\xff\x1b[31m"), "is no line"},
		{"an id that is short", line4("want 1234"), "is no line"},
		{"an id in upper case", line4(strings.ToUpper(first)), "is no line"},
		{"two blanks", line4("want  " + tips[1].String()), "is no line"},
		{"no ref", line4("want " + none + caps), none + " is no ref here"},
		{"no ref but there", line4("want " + tips[0].String() + caps), tips[0].String() + " is no ref here"},
		{"zeros", line4("want " + pack.ID{}.String() + caps), "is no ref here"},
		{"no ref, second", lines(first, "want "+none), none + " is no ref here"},
		{"have first", line4("have " + tips[0].String()), "before the wants end"},
		{"done first", line4("done"), "before the wants end"},
		{"done among wants", lines(first, "done"), "before the wants end"},
		{"want among haves", lines(first, "", "want "+tips[1].String()), "among the haves"},
		{"capabilities twice", lines(first, "want "+tips[1].String()+" thin-pack"), "capabilities stand in the first line"},
		{"have with more", lines(first, "", "have "+tips[0].String()+" x"), "is no line"},
		{"done with more", lines(first, "", "done x"), "is no line"},
		{"shallow", lines(first, "shallow "+tips[0].String()), "shallow clones (shallow, deepen) are not served here"},
		{"deepen", lines(first, "deepen 1"), "shallow clones (shallow, deepen) are not served here"},
		{"deepen-since", lines(first, "deepen-since 1"), "shallow clones (shallow, deepen) are not served here"},
		{"deepen-not", lines(first, "deepen-not refs/heads/main"), "shallow clones (shallow, deepen) are not served here"},
		{"filter", lines(first, "filter blob:none"), "partial clones (filter) are not served here"},
		{"shallow as a capability", line4(first + " shallow"), "shallow clones (shallow, deepen) are not served here"},
		{"deepen-relative", line4(first + " deepen-relative"), "shallow clones (shallow, deepen) are not served here"},
		{"filter as a capability", line4(first + " filter"), "partial clones (filter) are not served here"},
		{"what is not offered", line4(first + " allow-tip-sha1-in-want"), `the capability "allow-tip-sha1-in-want" is not offered`},
		{"another hash", line4(first + " object-format=sha256"), `named by sha1, not by "sha256"`},
		{"version 2", line4("command=ls-refs\n"), `"command=ls-refs" is no line`},
		{"too many wants", manyWants, "more than 65536 wants"},
		{"too many haves", manyHaves, "more than 262144 haves"},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := dial(t, dir, Options{})
			c.hear()
			go func() {
				_, _ = io.WriteString(c, x.send)
			}()
			answer := ""
			for {
				l, ok := c.one()
				if !ok {
					break
				}
				answer = l
			}
			if !strings.HasPrefix(answer, "ERR ") || !strings.Contains(answer, x.want) || strings.ContainsAny(answer[:len(answer)-1], "\x00\x1b\n") {
				t.Errorf("answered %q", answer)
			}
			if err := c.end(); err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestCutShort hangs up after every byte of a request, and while the pack comes.
func TestCutShort(t *testing.T) {
	dir, tips := newRepo(t, "refs/heads/main", "a", "b")
	before := runtime.NumGoroutine()
	request := line4("want "+tips[1].String()+caps+"\n") + "0000" + line4("have "+tips[0].String()+"\n") + "0000" + line4("done\n")
	for n := range len(request) {
		c := dial(t, dir, Options{})
		c.hear()
		_, _ = io.WriteString(c, request[:n])
		c.Close()
		if err := c.end(); (err == nil) != (n == 0) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	for n := 1; n < 2000; n += 37 { // of what the server says
		c := dial(t, dir, Options{})
		go func() { _, _ = io.WriteString(c, request) }()
		_, _ = io.CopyN(io.Discard, c, int64(n))
		c.Close()
		_ = c.end() // a short pack may be on its way as a whole
	}
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

// TestStall lets the server wait: a client that says nothing, one that says a byte now and
// then, one that takes nothing. A context that ends, ends a session as well.
func TestStall(t *testing.T) {
	dir := filepathOfLarge(t)
	r, err := repo.OpenDir(context.Background(), dir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want := line4("want "+strings.TrimSpace(git(t, "-C", dir, "rev-parse", "HEAD"))+caps) + "0000" + line4("done")
	for _, x := range []struct {
		name   string
		client func(c net.Conn)
	}{
		{"silence", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }},
		{"byte by byte", func(c net.Conn) {
			go func() { _, _ = io.Copy(io.Discard, c) }()
			for i := range want {
				if _, err := io.WriteString(c, want[i:i+1]); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}},
		{"takes nothing", func(net.Conn) {}},
		{"takes no pack", func(c net.Conn) {
			go func() { _, _ = io.WriteString(c, want) }()
			_, _ = io.CopyN(io.Discard, c, 1000)
		}},
	} {
		for _, deadlines := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, %v", x.name, deadlines), func(t *testing.T) {
				t.Parallel()
				mine, its := net.Pipe()
				defer its.Close()
				go x.client(its)
				var conn io.ReadWriter = mine
				if !deadlines {
					conn = struct {
						io.ReadWriteCloser
					}{mine}
				}
				ended := make(chan error, 1)
				go func() { ended <- Serve(context.Background(), conn, r, Options{Idle: 300 * time.Millisecond}) }()
				select {
				case err := <-ended:
					if err == nil {
						t.Error("no error")
					}
				case <-time.After(20 * time.Second):
					t.Error("it does not end")
				}
			})
		}
	}
	t.Run("context", func(t *testing.T) {
		mine, its := net.Pipe()
		defer its.Close()
		cause := errors.New("the server stops")
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
		if err := Serve(ctx, mine, r, Options{}); err != cause {
			t.Error(err)
		}
	})
}

func filepathOfLarge(t testing.TB) string {
	t.Helper()
	for _, k := range kinds {
		if k.name == "large" {
			return k.make(t)
		}
	}
	t.Fatal("no such repository")
	return ""
}

// TestDrain goes on to speak after it was refused: there is a second for it, and no more.
func TestDrain(t *testing.T) {
	dir, _ := newRepo(t, "refs/heads/main", "a")
	r, err := repo.OpenDir(context.Background(), dir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	mine, its := net.Pipe()
	defer its.Close()
	ended := make(chan error, 1)
	go func() {
		err := Serve(context.Background(), mine, r, Options{})
		mine.Close()
		ended <- err
	}()
	in := bufio.NewReader(its)
	if _, err := in.ReadString('\x00'); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, in) }()
	sent := 0
	for {
		n, err := io.WriteString(its, line4("hello"))
		if sent += n; err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := <-ended; !errors.As(err, new(*repo.RefusedError)) || sent < 5*len("0009hello") {
		t.Errorf("%d bytes taken: %v", sent, err)
	}
}

// TestAllowed shows a client some refs only, and gives it no others.
func TestAllowed(t *testing.T) {
	dir, tips := newRepo(t, "refs/heads/main", "a")
	other := save(t, dir, "refs/heads/other", pack.ID{}, "b")
	o := Options{Allowed: func(ref string) bool { return ref == "refs/heads/other" }}
	c := dial(t, dir, o)
	if got := c.hear(); len(got) != 1 || !strings.HasPrefix(got[0], other[0].String()+" refs/heads/other\x00") || strings.Contains(got[0], "symref") {
		t.Errorf("%q", got)
	}
	c.say("want " + tips[0].String() + caps)
	if got := c.hear(); len(got) != 1 || got[0] != "ERR refused: "+tips[0].String()+" is no ref here\n" {
		t.Errorf("%q", got)
	}
	c = dial(t, dir, Options{Allowed: func(string) bool { return false }})
	if got := c.hear(); len(got) != 1 || !strings.HasPrefix(got[0], pack.ID{}.String()+" capabilities^{}\x00") {
		t.Errorf("%q", got)
	}
}

// TestPackp speaks with another implementation's messages: a client that knows nothing of
// multi_ack, with and without a side band.
func TestPackp(t *testing.T) {
	dir := gitRepo(t)
	for _, raw := range []bool{true, false} {
		c := dial(t, dir, Options{})
		refs := packp.NewAdvRefs()
		if err := refs.Decode(c); err != nil {
			t.Fatal(err)
		}
		shown := git(t, "-C", dir, "show-ref", "-d")
		for name, id := range refs.References {
			if !strings.Contains(shown, id.String()+" "+name+"\n") {
				t.Errorf("shown: %v %s", id, name)
			}
		}
		for name, id := range refs.Peeled {
			if !strings.Contains(shown, id.String()+" "+name+"^{}\n") {
				t.Errorf("shown: %v %s^{}", id, name)
			}
		}
		if n := len(refs.References) + len(refs.Peeled); n != strings.Count(shown, "\n") {
			t.Errorf("%d of %d refs are shown", n, strings.Count(shown, "\n"))
		}
		request := packp.NewUploadPackRequest()
		if !raw {
			request = packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
			if err := request.Capabilities.Set(capability.Sideband64k); err != nil {
				t.Fatal(err)
			}
			request.Capabilities.Delete(capability.MultiACKDetailed)
		}
		request.Wants = []plumbing.Hash{*refs.Head}
		if err := request.UploadRequest.Encode(c); err != nil {
			t.Fatal(err)
		}
		c.say("done\n")
		if l, _ := c.one(); l != "NAK\n" {
			t.Fatalf("%q", l)
		}
		data := new(bytes.Buffer)
		if raw {
			if _, err := io.Copy(data, c); err != nil {
				t.Fatal(err)
			}
		} else {
			for l, ok := c.one(); ok && l != ""; l, ok = c.one() {
				if l[0] == 1 {
					data.WriteString(l[1:])
				}
			}
		}
		if err := c.end(); err != nil {
			t.Fatal(err)
		}
		to := t.TempDir()
		git(t, "init", "-q", "--bare", to)
		cmd := exec.Command("git", "-C", to, "index-pack", "--strict", "--stdin")
		cmd.Stdin = data
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		git(t, "-C", to, "update-ref", "refs/heads/main", refs.Head.String())
		clean(t, to)
	}
}

// TestCounting counts for so long that the client is told.
func TestCounting(t *testing.T) {
	dir, _ := newRepo(t, "refs/heads/main", "a")
	r, err := repo.OpenDir(context.Background(), dir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, quiet := range []bool{false, true} {
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		s := &session{r: r, w: w, out: pktline.NewEncoder(w), features: features{sideBand: true, quiet: quiet}}
		s.band = newBand(s.out)
		if s.sel, err = r.NewSelection(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		count := s.counting(time.Now().Add(-10 * time.Second))
		for range 2 { // the second time nothing is due
			if err := count(); err != nil {
				t.Fatal(err)
			}
		}
		want := "0019\x02Counting objects: 0\r"
		if quiet {
			want = "0005\x01"
		}
		if out.String() != want {
			t.Errorf("quiet %v: %q, not %q", quiet, out.String(), want)
		}
	}
}

// failing takes some writes, and no more after the first that fails.
type failing struct {
	io.Reader
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left--; f.left < 0 {
		return len(p) / 2, f.err
	}
	return len(p), nil
}

// TestWriteFaults fails at write k, until none fails.
func TestWriteFaults(t *testing.T) {
	dir := filepathOfLarge(t)
	git(t, "-C", dir, "tag", "-a", "-m", "t", "t")
	r, err := repo.OpenDir(context.Background(), dir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	id := func(rev string) string { return strings.TrimSpace(git(t, "-C", dir, "rev-parse", rev)) }
	for _, caps := range []string{"", " side-band-64k", " side-band-64k multi_ack_detailed", " side-band-64k multi_ack_detailed no-done include-tag"} {
		request := line4("want "+id("main")+caps) + "0000" + line4("have "+id("main~2")) + "0000" + line4("done")
		failed := errors.New("it is gone")
		for k := 0; ; k++ {
			err := Serve(context.Background(), &failing{strings.NewReader(request), k, failed}, r, Options{Protocol: "version=1"})
			if err == nil {
				if k < 50 { // five mebibytes
					t.Errorf("%q: only %d writes", caps, k)
				}
				break
			}
			if !errors.Is(err, failed) {
				t.Fatalf("%q: write %d: %v", caps, k, err)
			}
		}
	}
}
