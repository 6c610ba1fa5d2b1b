package remote

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	var out heard
	w := newWords(&out)
	for _, s := range []string{"plain\npro", "gress 10%\rprogress 20%\r\n", "\x1b[2Jgone\x07\u202e\xff ü\tx\n\n", "no end"} {
		_, _ = io.WriteString(w, s)
	}
	w.flush()
	const want = "plain\nprogress 10%\nprogress 20%\n?[2Jgone??\ufffd ü x\nno end\n"
	if out.String() != want {
		t.Errorf("passed on: %q\nwant       %q", out.String(), want)
	}
	if got := w.last(); got != "progress 20%; ?[2Jgone??\ufffd ü x; no end" {
		t.Errorf("last words: %q", got)
	}
	// Somebody who does not stop is cut off, line by line and in all.
	big := bytes.Repeat([]byte("x"), 3*maxWords)
	_, _ = w.Write(big)
	if n := len(out.String()); n > 2*maxWords {
		t.Errorf("%d bytes were passed on", n)
	}
	if n := len(strings.Join(w.lines(), "")); n > maxWordsKept {
		t.Errorf("%d bytes are kept", n)
	}
}

// Of a program that died with a list of its calls only what it died of is passed on and
// kept.
func TestWordsOfTheDying(t *testing.T) {
	for _, test := range []struct{ name, said, passed, last string }{
		{"python", `Initialized empty Git repository in /r/
hint: Using 'master' as the name for the initial branch. This default branch name
hint:
fatal: update_ref failed for ref 'refs/heads/x'
Traceback (most recent call last):
  File "/usr/lib/bup/bup/main.py", line 396, in <module>
    main()
    ~~~~^^
  File "/usr/lib/bup/bup/git.py", line 61, in _git_wait
    raise GitError('%r returned %d' % (cmd, rv))
bup.git.GitError: b'git update-ref' returned 128
`, `Initialized empty Git repository in /r/
hint: Using 'master' as the name for the initial branch. This default branch name
hint:
fatal: update_ref failed for ref 'refs/heads/x'
bup.git.GitError: b'git update-ref' returned 128
`, "Initialized empty Git repository in /r/; fatal: update_ref failed for ref 'refs/heads/x'; bup.git.GitError: b'git update-ref' returned 128"},
		{"python, twice", `Traceback (most recent call last):
  File "a.py", line 1, in <module>
KeyError: 'x'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in <module>
OSError: [Errno 28] No space left on device
and then
`, "KeyError: 'x'\nKeyError: 'x'\nOSError: [Errno 28] No space left on device\nand then\n", "KeyError: 'x'; OSError: [Errno 28] No space left on device; and then"},
		{"go", "panic: oh no\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:21 +0x145\ncreated by main.x in goroutine 2\n\t/src/x.go:1\n\n" +
			"goroutine 5 [IO wait]:\nmain.x(...)\n\t/src/x.go:2\nConnection to far closed.\n",
			"panic: oh no\nConnection to far closed.\n", "panic: oh no; Connection to far closed."},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			w := newWords(&out)
			_, _ = io.WriteString(w, test.said)
			if out.String() != test.passed {
				t.Errorf("passed on:\n%swant:\n%s", out.String(), test.passed)
			}
			if got := w.last(); got != test.last {
				t.Errorf("last words: %s\nwant %s", got, test.last)
			}
		})
	}
}
