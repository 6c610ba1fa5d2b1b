package access

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/repo"
)

// Request is what a client asks an SSH server to run.
type Request struct {
	What Program
	Path string // of UploadPack
}

// Program is one of the programs that a client may ask for.
type Program uint8

// The programs.
const (
	Server     Program = iota + 1 // kedge server, or one of bup's two forms of bup server
	UploadPack                    // git-upload-pack 'PATH'
)

// maxRequest is the longest command that is looked at: a path of the longest kind,
// quoted.
const maxRequest = 16 << 10

// ParseRequest reads the command of an exec request or SSH_ORIGINAL_COMMAND: a fixed
// grammar of a few forms, which no shell sees.
//
//	kedge server
//	bup server
//	sh -c 'BUP_DEBUG=N BUP_FORCE_TTY=N [BUP_TTY_WIDTH=N] bup server'
//	sh -c "BUP_DEBUG=N BUP_FORCE_TTY=N [BUP_TTY_WIDTH=N] bup server"
//	git-upload-pack 'PATH'
//	git upload-pack 'PATH'
//
// Words are separated by one space, but within the form of bup, which leaves two of them
// where a variable is not set. PATH is quoted as git does it:
//
//	' is written '\''
//	! is written '\!'
//
// All else is a *repo.RefusedError.
func ParseRequest(command string) (Request, error) {
	if len(command) > maxRequest {
		return Request{}, &repo.RefusedError{Reason: fmt.Sprintf("a command of %d bytes", len(command))}
	}
	switch command {
	case "kedge server", "bup server":
		return Request{What: Server}, nil
	case "":
		return Request{}, &repo.RefusedError{Reason: "there is no shell here, only kedge server and git-upload-pack"}
	}
	if script, ok := strings.CutPrefix(command, "sh -c "); ok && isBupServer(script) {
		return Request{What: Server}, nil
	}
	for _, verb := range []string{"git-upload-pack ", "git upload-pack "} {
		if quoted, ok := strings.CutPrefix(command, verb); ok {
			if path, ok := gitUnquote(quoted); ok {
				return Request{What: UploadPack, Path: path}, nil
			}
		}
	}
	const shown = 80
	if len(command) > shown {
		command = command[:shown] + "..."
	}
	return Request{}, &repo.RefusedError{
		Reason: "only kedge server, bup server and git-upload-pack are served here, not " + strconv.Quote(command),
	}
}

// isBupServer reports whether a quoted script is the one by which bup starts a server.
func isBupServer(script string) bool {
	n := len(script) - 1
	if n < 1 || script[0] != script[n] || script[0] != '\'' && script[0] != '"' {
		return false
	}
	var words []string
	for w := range strings.SplitSeq(script[1:n], " ") {
		if w != "" {
			words = append(words, w)
		}
	}
	if len(words) == 5 && isSetting(words[2], "BUP_TTY_WIDTH") {
		words = append(words[:2], words[3:]...)
	}
	return len(words) == 4 && isSetting(words[0], "BUP_DEBUG") && isSetting(words[1], "BUP_FORCE_TTY") &&
		words[2] == "bup" && words[3] == "server"
}

// isSetting reports whether a word gives a variable a number.
func isSetting(word, name string) bool {
	v, ok := strings.CutPrefix(word, name+"=")
	return ok && v != "" && len(v) <= 10 && strings.Trim(v, "0123456789") == ""
}

// gitUnquote reads one path in the quotes of git, and nothing after it.
func gitUnquote(s string) (string, bool) {
	var path []byte
	for {
		text, ok := strings.CutPrefix(s, "'")
		if !ok {
			return "", false
		}
		text, rest, ok := strings.Cut(text, "'")
		if !ok || strings.ContainsAny(text, "\x00!") {
			return "", false
		}
		path = append(path, text...)
		switch {
		case rest == "":
			return string(path), true
		case strings.HasPrefix(rest, `\'`), strings.HasPrefix(rest, `\!`):
			path = append(path, rest[1])
			s = rest[2:]
		default:
			return "", false
		}
	}
}
