package job

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// A preset knows how a kind of database is dumped to standard output, and how that is read
// again. The options are those that make two dumps of the same data equal byte for byte, or
// nearly: no compression, no dates, a stable order. What a night adds is then what changed.
//
// Commands are lists of words for bash, already quoted. Secrets reach a tool in a file that
// only its user can read, never as an argument and never in what is printed: {secret} stands
// for that file, and words that name it are left out if there is no secret.
type preset struct {
	name     string
	tool     string // the program that it cannot do without; "" if it goes by several names
	needs    string // what the stream has to say: "file", "database" or ""
	secret   string // how the file of the secret is written, with %s for the secret; "" if it takes none
	ends     string // what the last bytes of a whole dump are; "" if the exit code says it all
	dump     func(s *Stream) []string
	helpText string

	// Reading a dump again. Load reads it from standard input; over says that it may replace
	// what is there.
	load func(s *Stream, over bool) []string
	// There prints how many things are where the dump goes: "0" for none, "absent" if there is
	// no such database yet. Nil if kedge looks by itself, because the target is a file.
	there func(s *Stream) []string
	// Ready makes the database, or moves it aside, to names that end in suffix.
	ready func(s *Stream, absent bool, suffix string) []string
	// Drop removes what ready has moved aside, if nobody needs it.
	drop func(s *Stream, suffix string) []string
	// Keep: what is there cannot be moved aside. It is dumped to a file before it is replaced.
	keep bool
	// Skip prints the lines that the head of the dump, up to the line that begins with
	// headEnd, has and the target must not see.
	skip    func(s *Stream) []string
	headEnd string
	// Into says that the target is s.File, and what kind of thing that is.
	into intoKind
	// Up succeeds if a server runs that would write the file again.
	up func(s *Stream) []string
	// Beside are the ends of the names of files that belong to File: a log that was left there
	// would be applied to the new one.
	beside []string
	// Also are names in the directory of File that the server would read in its place.
	also []string
}

// intoKind is what kind of thing a dump is read into.
type intoKind uint8

const (
	intoServer intoKind = iota // a server, by the load command
	intoFile                   // a file: the load command makes {file}, which takes its place
	intoDir                    // a directory or file that the load command makes again by itself
)

// findPreset returns a preset by its name.
func findPreset(name string) (*preset, error) {
	var known []string
	for i := range presets {
		if presets[i].name == name {
			return &presets[i], nil
		}
		known = append(known, presets[i].name)
	}
	return nil, fmt.Errorf("there is no preset %q: %s are known", name, strings.Join(known, ", "))
}

// checkPreset says what a stream lacks for its preset, and what it must not say.
func (s *Stream) checkPreset() error {
	if s.Preset == "" {
		return nil
	}
	p, err := findPreset(s.Preset)
	switch {
	case err != nil:
		return fmt.Errorf("stream %s: %w", s.Name, err)
	case p.needs == "file" && s.File == "":
		return fmt.Errorf("stream %s: the preset %s needs a file", s.Name, p.name)
	case s.File != "" && !path.IsAbs(s.File):
		return fmt.Errorf("stream %s: file %q is not absolute", s.Name, s.File)
	case p.needs == "database" && s.Database == "":
		return fmt.Errorf("stream %s: the preset %s needs a database", s.Name, p.name)
	case p.secret == "" && s.Secret != "":
		return fmt.Errorf("stream %s: the preset %s takes no password", s.Name, p.name)
	case strings.HasPrefix(s.Database, "-") || strings.ContainsAny(s.Database, "=\x00\n") || strings.Contains(s.Database, "://"):
		return fmt.Errorf("stream %s: %q is no name of a database; host, port, user and password-file have keys of their own", s.Name, s.Database)
	}
	for _, arg := range s.Args {
		if hasPassword(p.name, arg) {
			return fmt.Errorf("stream %s: args: everybody on this machine can read a password there; password-file hands it over", s.Name)
		}
	}
	return nil
}

// hasPassword reports an argument that gives a tool a password: ps(1) shows arguments to all.
func hasPassword(preset, arg string) bool {
	long, value, _ := strings.Cut(arg, "=")
	switch {
	case long == "--password" && (value != "" || preset == "mongodb"), long == "--pass", strings.Contains(arg, "password="):
		return true
	case preset == "mysql":
		return strings.HasPrefix(arg, "-p") && len(arg) > 2
	case preset == "mongodb":
		at := strings.LastIndexByte(arg, '@')
		return strings.HasPrefix(arg, "-p") || at >= 0 && strings.Contains(arg[:at], "://")
	case preset == "redis":
		return arg == "-a" || arg == "-u"
	}
	return false
}

// command returns the command that dumps a stream, or with again the one that reads a dump from
// its standard input, as people would write it. secret is the file with the secret, "" if there
// is none.
func (s *Stream) command(again bool, secret string) (string, error) {
	switch {
	case again && s.Restore != "":
		return s.Restore, nil
	case again && s.Preset == "": // a kit does not know the command that dumped it
		return "", fmt.Errorf("stream %s: the config does not say which command reads it (restore)", s.Name)
	case s.Command != "":
		return s.Command, nil
	}
	p, err := findPreset(s.Preset)
	if err != nil {
		return "", err
	}
	if again {
		return script(p.load(s, false), secret, orElse(s.File, redisFile)), nil
	}
	return script(p.dump(s), secret, ""), nil
}

// script joins words to a command, without those that name a secret that there is none of.
func script(words []string, secret, file string) string {
	var out []string
	for _, w := range words {
		if strings.Contains(w, "{secret}") {
			if secret == "" {
				continue
			}
			w = strings.ReplaceAll(w, "{secret}", quoteWord(secret))
		}
		if w == "{file}" || w == "of={file}" {
			w = strings.Replace(w, "{file}", quoteWord(file), 1)
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

// Tool returns the program that a stream's preset cannot do without, "" if that is not known.
func (s *Stream) Tool() string {
	p, err := findPreset(s.Preset)
	if err != nil {
		return ""
	}
	return p.tool
}

// quoted quotes words for the shell; empty ones are left out.
func quoted(words ...string) []string {
	var list []string
	for _, w := range words {
		if w != "" {
			list = append(list, quoteWord(w))
		}
	}
	return list
}

// quoteWord quotes one word for the shell.
func quoteWord(w string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_=./,:@%+", r)
	}
	if w != "" && strings.IndexFunc(w, func(r rune) bool { return !plain(r) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// words joins lists of words.
func words(lists ...[]string) []string { return slices.Concat(lists...) }
