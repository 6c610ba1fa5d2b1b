package access

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// Key is a line of authorized_keys.
type Key struct {
	Line    int // from 1; 0: of no file
	Public  ssh.PublicKey
	Comment string
	Grant   Grant  // Who is the fingerprint
	From    string // the patterns of from="…"; "": from anywhere
	Expires string // the time of expiry-time="…"; "": never
	NoTouch bool   // no-touch-required: a security key need not be touched

	from    fromList
	expires time.Time
}

// LineError says what is wrong with a line of authorized_keys.
type LineError struct {
	Line   int
	Reason string
}

// Error says what is wrong.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// MaxKeys is the largest file of keys, in bytes: some 10,000 of them.
const MaxKeys = 4 << 20

// maxKeyBlob is the largest key in bytes: RSA with 8192 bits has 1,047.
const maxKeyBlob = 1200

// Fingerprint returns the name of the key that ssh-keygen -l prints: SHA256:….
func (k *Key) Fingerprint() string { return ssh.FingerprintSHA256(k.Public) }

// ParseKeys reads a file of keys. A line that is wrong lets nobody in and does not keep
// the others from being read.
func ParseKeys(text []byte) (keys []Key, bad []LineError) {
	eachLine(text, func(n int, line string) bool {
		k, err := parseLine(line)
		if err != nil {
			bad = append(bad, LineError{n, err.Error()})
			return true
		}
		k.Line = n
		keys = append(keys, k)
		return true
	})
	return keys, bad
}

// eachLine calls fn for each line that is to be read, until it returns false.
func eachLine(text []byte, fn func(n int, line string) bool) {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line := strings.TrimLeft(strings.TrimSuffix(string(line), "\n"), " \t")
		if line != "" && line[0] != '#' && !fn(n, line) {
			return
		}
	}
}

// Lookup finds the line for a key that a client at an address has offered. As with
// OpenSSH, the first line of the key that allows the address and the time decides.
// Only lines that hold the key are read, so that an unknown client costs a search of the
// text. An error says why a line did not let the key in, for the log alone.
func Lookup(text []byte, public ssh.PublicKey, from netip.Addr, now time.Time) (*Key, error) {
	why := errors.New("the key is unknown")
	var found *Key
	blob := base64.StdEncoding.EncodeToString(public.Marshal())
	eachLine(text, func(n int, line string) bool {
		if !strings.Contains(line, blob) {
			return true
		}
		k, err := parseLine(line)
		if err == nil && !bytes.Equal(k.Public.Marshal(), public.Marshal()) {
			return true // it stands in a comment
		}
		if err == nil {
			err = k.permits(from, now)
		}
		if err != nil {
			why = &LineError{n, err.Error()}
			return true
		}
		k.Line, found = n, &k
		return false
	})
	if found == nil {
		return nil, why
	}
	return found, nil
}

// permits says whether the key may come from an address now.
func (k *Key) permits(from netip.Addr, now time.Time) error {
	if k.Expires != "" && now.Unix() > k.expires.Unix() {
		return errors.New("the key has expired")
	}
	if k.From != "" && !k.from.match(from) {
		return fmt.Errorf("the key may not come from %v", from)
	}
	return nil
}

// parseLine reads one line.
func parseLine(line string) (Key, error) {
	if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r != '\t' && !strconv.IsPrint(r) }) {
		return Key{}, errors.New("it holds a character that cannot be printed")
	}
	var k Key
	if isKeyType(firstWord(line)) {
		return Key{}, errors.New(`the key is bound to no command="kedge server ..."; it would open a shell, which there is none of here`)
	}
	options, rest, err := cutOptions(line)
	if err != nil {
		return Key{}, err
	}
	if k.Public, k.Comment, err = parsePublic(rest); err != nil {
		return Key{}, err
	}
	if err := k.setOptions(options); err != nil {
		return Key{}, err
	}
	k.Grant.Who = k.Fingerprint()
	return k, nil
}

func firstWord(s string) string {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i]
	}
	return s
}

// option is name or name="value".
type option struct {
	name, value string
	hasValue    bool
}

// cutOptions reads the options at the beginning of a line.
func cutOptions(line string) (list []option, rest string, err error) {
	for {
		n := strings.IndexAny(line, "=, \t")
		if n <= 0 {
			return nil, "", errors.New("no key stands behind the options")
		}
		o := option{name: line[:n]}
		line = line[n:]
		if line[0] == '=' {
			o.hasValue = true
			if o.value, line, err = cutQuoted(line[1:]); err != nil {
				return nil, "", fmt.Errorf("option %s: %w", o.name, err)
			}
		}
		list = append(list, o)
		switch {
		case line == "":
			return nil, "", errors.New("no key stands behind the options")
		case line[0] == ',':
			line = line[1:]
		case line[0] == ' ' || line[0] == '\t':
			return list, strings.TrimLeft(line, " \t"), nil
		default:
			return nil, "", fmt.Errorf("option %s: something follows its value", o.name)
		}
	}
}

// cutQuoted reads a value between double quotes.
func cutQuoted(s string) (value, rest string, err error) {
	if s == "" || s[0] != '"' {
		return "", "", errors.New("its value does not stand between double quotes")
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
			b.WriteByte('"')
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", errors.New("its value has no end")
}

// setOptions obeys the options of a line.
func (k *Key) setOptions(list []option) (err error) {
	seen := map[string]bool{}
	for _, o := range list {
		name := strings.ToLower(o.name)
		valued := name == "command" || name == "from" || name == "expiry-time"
		if valued && !o.hasValue {
			return fmt.Errorf("option %s is not known without a value", strconv.Quote(o.name))
		}
		if valued && seen[name] {
			return fmt.Errorf("option %s stands there twice", name)
		}
		seen[name] = true
		if !valued && o.hasValue {
			name += "=" // none of the others has a value
		}
		switch name {
		case "command":
			k.Grant, err = ParseCommand(o.value)
		case "from":
			k.From = o.value
			k.from, err = parseFrom(o.value)
		case "expiry-time":
			k.Expires = o.value
			k.expires, err = parseExpiry(o.value)
		case "no-touch-required":
			k.NoTouch = true
		case "restrict", "no-pty", "no-port-forwarding", "no-agent-forwarding", "no-x11-forwarding", "no-user-rc":
			// There is none of this here.
		default:
			err = errors.New("it is not known")
		}
		if err != nil {
			return fmt.Errorf("option %s: %w", strconv.Quote(o.name), err)
		}
	}
	if !seen["command"] {
		return errors.New(`the key is bound to no command="kedge server ..."`)
	}
	return nil
}

// parseExpiry reads a time as ssh-keygen writes it. Without a Z it is local time.
func parseExpiry(s string) (time.Time, error) {
	const layout = "20060102150405"
	digits, zone := s, time.Local
	if t, ok := strings.CutSuffix(s, "Z"); ok {
		digits, zone = t, time.UTC
	}
	switch len(digits) {
	case 8, 12, 14:
		if t, err := time.ParseInLocation(layout[:len(digits)], digits, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s is no time: YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, and Z for UTC", strconv.Quote(s))
}

// isKeyType reports whether a word is the type of a key that may be let in.
func isKeyType(word string) bool {
	switch word {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSA,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return true
	}
	return false
}

// parsePublic reads the type, the key and the comment at the end of a line.
func parsePublic(s string) (key ssh.PublicKey, comment string, err error) {
	kind := firstWord(s)
	if !isKeyType(kind) {
		return nil, "", fmt.Errorf("keys of the type %s are not let in: ed25519, ecdsa, their sk forms, and RSA of 3072 bits or more are", strconv.Quote(kind))
	}
	s = strings.TrimLeft(s[len(kind):], " \t")
	text := firstWord(s)
	comment = strings.Trim(s[len(text):], " \t")
	if len(text) > base64.StdEncoding.EncodedLen(maxKeyBlob) {
		return nil, "", errors.New("the key is too long")
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, "", errors.New("the key is no Base64")
	}
	if key, err = ssh.ParsePublicKey(blob); err != nil || key.Type() != kind || !bytes.Equal(key.Marshal(), blob) {
		return nil, "", fmt.Errorf("it is no key of the type %s", kind)
	}
	return key, comment, CheckPublic(key)
}

// CheckPublic refuses keys that are too weak, or cost too much to check: RSA below 3072
// or above 8192 bits, DSA, certificates. Every key that may be let in has passed it.
func CheckPublic(key ssh.PublicKey) error {
	if !isKeyType(key.Type()) {
		return fmt.Errorf("keys of the type %s are not let in", strconv.Quote(key.Type()))
	}
	if key.Type() != ssh.KeyAlgoRSA {
		return nil
	}
	if c, ok := key.(ssh.CryptoPublicKey); ok {
		if k, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && k.N.BitLen() >= 3072 && k.N.BitLen() <= 8192 {
			return nil
		}
	}
	return errors.New("an RSA key must have 3072 to 8192 bits")
}
