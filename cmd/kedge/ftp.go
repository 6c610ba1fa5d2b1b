package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

const ftpHelp = `Ftp is a small shell in which one walks about in what was saved:

    ls [OPTION...] [PATH...]     as 'kedge ls'
    cd PATH, pwd                 go somewhere, say where that is
    cat FILE...                  write the contents of files
    get FILE [LOCAL]             copy a file to the working directory, or to LOCAL
    mget PATTERN...              copy the files that match (*, ?, [a-z])
    help, quit

Each COMMAND is one line of it; without any, lines are read from standard input. On a
terminal they can be edited, and the tab key completes commands and paths. A word with
blanks in it stands in quotes. What goes wrong is told on standard output, as bup does,
and the next line is carried out all the same.`

const ftpExample = `  kedge ftp
  kedge ftp 'cd web1/latest/etc' 'get passwd passwd.old'`

func (a *app) ftpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ftp [COMMAND...]",
		Short:   "a shell over what was saved",
		Long:    ftpHelp,
		Example: ftpExample,
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if a.common.json {
			return usagef("ftp is for people and has no JSON")
		}
		r, err := a.open(ctx, true)
		if err != nil {
			return err
		}
		defer a.closeRepo(r)
		sh := &ftpShell{a: a, ctx: ctx, r: r, v: &repo.VFS{Repo: r}, wd: "/"}
		switch {
		case len(args) > 0:
			err = sh.lines(func() (string, error) {
				if len(args) == 0 {
					return "", io.EOF
				}
				line := args[0]
				args = args[1:]
				return line, nil
			})
		case a.Terminal != nil && a.Terminal(a.Stdin) > 0 && a.outTTY > 0:
			return sh.interact()
		default:
			in := bufio.NewReader(a.Stdin)
			err = sh.lines(func() (string, error) { return readLine(in) })
		}
		if err == nil && sh.failed > 0 && a.name != "bup" {
			err = &partialError{plural(sh.failed, "command") + " failed"}
		}
		return err
	})
}

// maxLine bounds the lines that are read.
const maxLine = 64 << 10

// readLine reads a line without its end.
func readLine(in *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		part, err := in.ReadSlice('\n')
		if b.Write(part); b.Len() > maxLine {
			return "", usagef("a line of more than %d bytes", maxLine)
		}
		if err == nil || err == io.EOF && b.Len() > 0 {
			return strings.TrimSuffix(b.String(), "\n"), nil
		} else if err != bufio.ErrBufferFull {
			return "", err
		}
	}
}

// ftpShell is one run of the shell.
type ftpShell struct {
	a      *app
	ctx    context.Context
	r      repo.Repo
	v      *repo.VFS
	wd     string // absolute
	failed int64
}

// errQuit ends the shell.
var errQuit = errors.New("quit")

// lines carries out lines until the end of them.
func (sh *ftpShell) lines(next func() (string, error)) error {
	for {
		line, err := next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = sh.line(line)
		}
		if err == errQuit {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line carries out one line. Only what ends the shell is an error.
func (sh *ftpShell) line(line string) error {
	words, _ := splitWords(line)
	if len(words) == 0 {
		return nil
	}
	err := sh.command(words[0], words[1:])
	switch {
	case err == nil:
		return sh.flush()
	case err == errQuit, sh.ctx.Err() != nil, errors.Is(err, errReaderGone):
		return err
	}
	sh.failed++
	if err := sh.a.print([]byte("error: " + escapeText(err.Error()) + "\n")); err != nil {
		return err
	}
	return sh.flush()
}

// flush writes what a line has printed.
func (sh *ftpShell) flush() error {
	err := sh.a.out.Flush()
	if errors.Is(err, syscall.EPIPE) {
		return errReaderGone
	}
	return err
}

// ftpCommands are the words that a line may begin with.
var ftpCommands = []string{"ls", "cd", "pwd", "cat", "get", "mget", "help", "quit"}

func (sh *ftpShell) command(word string, args []string) error {
	switch word {
	case "ls":
		return sh.ls(args)
	case "cd":
		return sh.cd(args)
	case "pwd":
		return sh.a.print(append(sh.a.appendName(nil, sh.wd), '\n'))
	case "cat":
		for _, arg := range args {
			if err := sh.copyTo(arg, sh.a.out); err != nil {
				return err
			}
		}
		return nil
	case "get":
		return sh.get(args)
	case "mget":
		return sh.mget(args)
	case "help", "?":
		return sh.a.print([]byte("Commands: " + strings.Join(ftpCommands, " ") + "\n"))
	case "quit", "exit", "bye":
		return errQuit
	}
	return fmt.Errorf("there is no command %s; help lists them", quote(word))
}

// path returns the absolute path of an argument.
func (sh *ftpShell) path(arg string) string {
	if strings.HasPrefix(arg, "/") {
		return arg
	}
	return strings.TrimSuffix(sh.wd, "/") + "/" + arg
}

// node returns what an argument names, and the way there.
func (sh *ftpShell) node(arg string) (*repo.Node, string, error) {
	chain, err := sh.v.Resolve(sh.ctx, sh.path(arg), repo.ResolveOptions{Follow: true, SaveNames: true, Meta: true})
	if err != nil {
		return nil, "", err
	}
	var way strings.Builder
	for _, n := range chain[1:] {
		way.WriteString("/" + n.Name)
	}
	return &chain[len(chain)-1], "/" + strings.TrimPrefix(way.String(), "/"), nil
}

func (sh *ftpShell) ls(args []string) error {
	var o listing
	f := pflag.NewFlagSet("ls", pflag.ContinueOnError)
	o.flags(f)
	n := normaliser{flags: f}
	paths, err := n.options(args, false)
	if err == nil {
		err = f.Parse(n.out)
	}
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		paths = []string{"."}
	}
	for i, p := range paths {
		paths[i] = sh.path(p)
	}
	l := lister{a: sh.a, ctx: sh.ctx, o: o, r: sh.r, v: sh.v, told: make(map[string]bool)}
	return l.paths(paths)
}

func (sh *ftpShell) cd(args []string) error {
	if len(args) > 1 {
		return errors.New("usage: cd PATH")
	}
	if len(args) == 0 {
		return nil // as bup
	}
	n, way, err := sh.node(args[0])
	if err != nil {
		return err
	}
	if !n.IsDir() {
		return &repo.NotDirError{Path: args[0]}
	}
	sh.wd = way
	return nil
}

// copyTo writes the content of a file.
func (sh *ftpShell) copyTo(arg string, w io.Writer) error {
	n, _, err := sh.node(arg)
	if err != nil {
		return err
	}
	if n.IsDir() || n.StatMode()&meta.TypeMask != meta.TypeFile {
		return fmt.Errorf("%s is no regular file", quote(arg))
	}
	_, err = repo.OpenFile(sh.ctx, sh.r, n.ID, n.Chunked).WriteTo(w)
	return ofPath(arg, err)
}

func (sh *ftpShell) get(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("usage: get FILE [LOCAL]")
	}
	local := path.Base(args[0])
	if len(args) == 2 {
		local = args[1]
	}
	return sh.save(args[0], local)
}

// save copies a file to the file system. The file is there when it is complete; until
// then what had the name stays.
func (sh *ftpShell) save(arg, local string) error {
	at, err := sourcePath(local)
	if err != nil {
		return err
	}
	parent, name := filepath.Split(at)
	dir, err := fsx.OpenDir(parent)
	if err != nil {
		return err
	}
	defer dir.Close()
	t, err := dir.CreateTemp()
	if err != nil {
		return err
	}
	defer t.Close()
	w := bufio.NewWriterSize(&offsetWriter{w: t}, 1<<20)
	if err := sh.copyTo(arg, w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	sh.a.ui.raw([]byte("Saving " + escape(local) + "\n"))
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", t.Fd()), 0o666&^umask()); err != nil {
		return err
	}
	return t.LinkAs(name, true)
}

// umask returns the bits that new files do not get.
func umask() os.FileMode {
	old := syscall.Umask(0o077)
	syscall.Umask(old)
	return os.FileMode(old)
}

// offsetWriter writes one piece behind the other.
type offsetWriter struct {
	w   io.WriterAt
	off int64
}

// Write writes at the end.
func (o *offsetWriter) Write(b []byte) (int, error) {
	n, err := o.w.WriteAt(b, o.off)
	o.off += int64(n)
	return n, err
}

// mget copies the regular files that match patterns. Only the last part of one may have
// wildcards.
func (sh *ftpShell) mget(args []string) error {
	for _, arg := range args {
		dir, pattern := path.Split(arg)
		n, _, err := sh.node(dir + ".")
		if err != nil {
			return err
		}
		var names []string
		err = sh.v.ReadDir(sh.ctx, n, false, func(n *repo.Node) error {
			ok, err := path.Match(pattern, n.Name)
			hidden := strings.HasPrefix(n.Name, ".") && !strings.HasPrefix(pattern, ".")
			if ok && !hidden && !n.IsDir() && n.StatMode()&meta.TypeMask == meta.TypeFile {
				names = append(names, n.Name)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := sh.save(dir+name, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// splitWords takes a line apart: words with blanks between them, parts of them in quotes,
// and a backslash in front of any other character stands for that. open says that the
// line ends within quotes or behind a backslash.
func splitWords(line string) (words []string, open bool) {
	var word strings.Builder
	begun, quoted, escaped := false, byte(0), false
	for i := range len(line) {
		c := line[i]
		switch {
		case escaped:
			word.WriteByte(c)
			escaped = false
		case c == '\\' && quoted != '\'':
			escaped, begun = true, true
		case quoted == c && quoted != 0:
			quoted = 0
		case quoted == 0 && (c == '\'' || c == '"'):
			quoted, begun = c, true
		case quoted == 0 && (c == ' ' || c == '\t' || c == '\r'):
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteByte(c)
			begun = true
		}
	}
	if begun {
		words = append(words, word.String())
	}
	return words, quoted != 0 || escaped
}
