package main

import (
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/kedgebackup/kedge/repo"
)

// interact reads lines from a terminal, which it edits itself. The terminal is in raw mode
// only while a line is typed, so that what a command prints looks as it should and the
// interrupt key works.
func (sh *ftpShell) interact() error {
	in, ok := sh.a.Stdin.(*os.File)
	if !ok {
		return errors.New("standard input is no terminal")
	}
	fd := int(in.Fd())
	t := sh.editor(struct {
		io.Reader
		io.Writer
	}{in, sh.a.Stdout})
	return sh.lines(func() (string, error) {
		if w, h, err := term.GetSize(fd); err == nil && w > 0 && h > 0 {
			_ = t.SetSize(w, h)
		}
		state, err := term.MakeRaw(fd)
		if err != nil {
			return "", err
		}
		line, err := t.ReadLine()
		if rerr := term.Restore(fd, state); err == nil {
			err = rerr
		}
		return line, err
	})
}

// editor returns a line editor with completion.
func (sh *ftpShell) editor(rw io.ReadWriter) *term.Terminal {
	t := term.NewTerminal(rw, "kedge> ")
	t.AutoCompleteCallback = func(line string, pos int, key rune) (string, int, bool) {
		if key != '\t' {
			return "", 0, false
		}
		added, choices := sh.complete(line[:pos])
		if len(choices) > 0 {
			for i, c := range choices {
				choices[i] = escape(c)
			}
			_, _ = io.WriteString(t, columns(choices, max(20, sh.a.outTTY)))
		}
		return line[:pos] + added + line[pos:], pos + len(added), true
	}
	return t
}

// complete returns what can be added to a line, or else the choices there are.
func (sh *ftpShell) complete(line string) (added string, choices []string) {
	words, open := splitWords(line)
	if open || strings.ContainsAny(line, `"'`) {
		return "", nil // who quotes knows what he types
	}
	word := ""
	if len(words) > 0 && !strings.HasSuffix(line, " ") || strings.HasSuffix(line, `\ `) {
		word, words = words[len(words)-1], words[:len(words)-1]
	}
	var names []string
	if len(words) == 0 {
		for _, c := range ftpCommands {
			names = append(names, c+" ")
		}
	} else {
		var front string
		front, word = path.Split(word)
		names = sh.namesIn(front, word)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, word) })
	if len(names) == 0 {
		return "", nil
	}
	common := names[0]
	for _, n := range names[1:] {
		for !strings.HasPrefix(n, common) {
			common = common[:len(common)-1]
		}
	}
	if common == word && len(names) > 1 {
		return "", names
	}
	return escapeWord(common[len(word):]), nil
}

// namesIn lists a directory for completion, those that are one with a slash at their end
// and others with a blank.
func (sh *ftpShell) namesIn(dir, prefix string) (names []string) {
	n, _, err := sh.node(dir + ".")
	if err != nil {
		return nil
	}
	_ = sh.v.ReadDir(sh.ctx, n, false, func(n *repo.Node) error {
		hidden := strings.HasPrefix(n.Name, ".") && !strings.HasPrefix(prefix, ".")
		switch {
		case n.Name == ".", hidden, escape(n.Name) != n.Name:
		case n.IsDir(), n.Kind == repo.NodeLatest:
			names = append(names, n.Name+"/")
		default:
			names = append(names, n.Name+" ")
		}
		if len(names) >= maxCompletions {
			return io.EOF
		}
		return nil
	})
	return names
}

// escapeWord puts a backslash in front of what would end a word, but for a blank at the
// very end, which is meant to.
func escapeWord(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(" \t'\"\\", s[i]) >= 0 && (s[i] != ' ' || i < len(s)-1) {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
