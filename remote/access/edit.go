package access

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// ParseKeyFile reads the public key in a file that ssh-keygen wrote: one line without
// options.
func ParseKeyFile(text []byte) (Key, error) {
	var k Key
	err := errors.New("it holds no public key")
	lines := 0
	eachLine(text, func(_ int, line string) bool {
		lines++
		line = strings.TrimSuffix(line, "\r")
		switch {
		case strings.Contains(line, "PRIVATE KEY"):
			err = errors.New("it holds a private key; the public one is in the file that ends in .pub")
			return false
		case strings.ContainsFunc(line, func(r rune) bool { return r != '\t' && !strconv.IsPrint(r) }):
			err = errors.New("it holds no public key in OpenSSH's format")
		default:
			k.Public, k.Comment, err = parsePublic(line)
		}
		return true
	})
	if err == nil && lines > 1 {
		err = errors.New("it holds more than one line")
	}
	return k, err
}

// Append appends the line of the key as it is written, without a line feed. What
// ParseKeys makes of the line is the key again.
func (k *Key) Append(b []byte) []byte {
	b = append(b, "restrict"...)
	if k.NoTouch {
		b = append(b, ",no-touch-required"...)
	}
	quoted := func(name, value string) {
		b = append(append(append(b, ','), name...), `="`...)
		b = append(append(b, strings.ReplaceAll(value, `"`, `\"`)...), '"')
	}
	if k.From != "" {
		quoted("from", k.From)
	}
	if k.Expires != "" {
		quoted("expiry-time", k.Expires)
	}
	quoted("command", k.Grant.Command())
	b = append(append(append(b, ' '), k.Public.Type()...), ' ')
	b = base64.StdEncoding.AppendEncode(b, k.Public.Marshal())
	if k.Comment != "" {
		b = append(append(b, ' '), k.Comment...)
	}
	return b
}

// AddKey returns a file of keys with the line of a key in it: in the place of the first
// line of the same key, so that there is one of them, or at the end. It refuses a key
// that it would not read back the same, as a from="…" that is wrong.
func AddKey(text []byte, k Key) ([]byte, error) {
	line := k.Append(nil)
	back, err := parseLine(string(line))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(back.Append(nil), line) {
		return nil, fmt.Errorf("line %q would be read otherwise", line)
	}
	out, done := rewrite(text, &k, append(line, '\n'))
	if !done {
		out = append(out, line...)
		out = append(out, '\n')
	}
	return out, nil
}

// LineOf returns the number of the first line that is about a key, right or wrong though
// the line may be; 0 if there is none.
func LineOf(text []byte, k Key) int {
	blob := base64.StdEncoding.EncodeToString(k.Public.Marshal())
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if isLineOf(string(bytes.TrimRight(line, "\r\n")), blob) {
			return n
		}
	}
	return 0
}

// RemoveKey returns a file of keys without the lines of a key.
func RemoveKey(text []byte, k Key) []byte {
	out, _ := rewrite(text, &k, nil)
	return out
}

// rewrite puts by in the place of the first line of a key and drops its other ones.
func rewrite(text []byte, k *Key, by []byte) (out []byte, found bool) {
	blob := base64.StdEncoding.EncodeToString(k.Public.Marshal())
	for line := range bytes.Lines(text) {
		if isLineOf(string(bytes.TrimRight(line, "\r\n")), blob) {
			if !found {
				out = append(out, by...)
			}
			found = true
			continue
		}
		out = append(out, line...)
		if line[len(line)-1] != '\n' {
			out = append(out, '\n')
		}
	}
	return out, found
}

// isLineOf reports whether a line is about a key, right or wrong though its options may be.
func isLineOf(line, blob string) bool {
	line = strings.TrimLeft(line, " \t")
	if line == "" || line[0] == '#' {
		return false
	}
	if !isKeyType(firstWord(line)) {
		_, rest, err := cutOptions(line)
		if err != nil {
			return false
		}
		line = rest
	}
	kind := firstWord(line)
	return firstWord(strings.TrimLeft(line[len(kind):], " \t")) == blob
}

// editWait is how long Edit waits for another that edits the same file.
const editWait = 10 * time.Second

// Edit changes a file of keys. Whoever reads it meanwhile sees it whole, as it was or
// as it is now, and two that edit it at once come one after the other. The order is
//
//	lock FILE.lock → read FILE → write a temporary file (0600) → sync → rename → sync of the directory
//
// FILE.lock stays.
func Edit(files *fsx.FS, file string, change func(text []byte) ([]byte, error)) (err error) {
	dir := filepath.Dir(file)
	if err := files.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if info, err := files.Lstat(file); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: it is no regular file, which could be replaced", file)
	}
	lock, err := files.Lock(file+".lock", fsx.Exclusive, editWait)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	old, err := files.ReadFile(file, MaxKeys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text, err := change(old)
	if err != nil || bytes.Equal(text, old) {
		return err
	}
	if len(text) > MaxKeys {
		return fmt.Errorf("%s: the file would be larger than %d bytes", file, MaxKeys)
	}
	return files.Replace(file, text, 0o600)
}
