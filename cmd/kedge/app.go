package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/internal/fsx"
)

const rootHelp = `Kedge saves directories and the output of commands into a git repository, in
which nothing is stored twice, and gets them back.

    kedge backup /etc /home          the first time, and every night
    kedge ls                         what there is
    kedge restore -C /tmp/x NAME/latest/etc

The repository is DIR: -d DIR before the name of the command or --dir DIR
anywhere, else $KEDGE_DIR, else ~/.kedge; without a home, /var/lib/kedge.`

// world is all that a run touches outside the repository and the sources, so
// that tests can stand in for it.
type world struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Env            func(string) string
	FS             *fsx.FS
	Terminal       func(f any) int // columns of the terminal that f is; 0: it is none
}

// common are the options that every command knows.
type common struct {
	dir        string
	remote     string
	quiet      bool
	verbose    counter
	json       bool
	noProgress bool
	cpu        int
	wait       time.Duration
	reach      reach
	store      store
}

// counter is an option that may be given several times.
type counter int

func (c *counter) Set(s string) error {
	if s == "+1" {
		*c++
		return nil
	}
	n, err := strconv.Atoi(s)
	*c = counter(n)
	return err
}

func (c *counter) String() string { return strconv.Itoa(int(*c)) }

// Type is empty so that the help shows no kind of value.
func (c *counter) Type() string { return "" }

// app is one run of the program.
type app struct {
	world
	name   string // the program's, as it was called: kedge or bup
	common common
	out    *bufio.Writer // standard output
	outTTY int           // its columns if it is a terminal
	ui     *tui
	doc    jsonDoc
	now    func() time.Time
	brief  bool // this run asks a store for as little as it can
}

// run is the whole program: it reads the command line, runs one command and
// returns the exit code.
func run(ctx context.Context, args []string, w world) int {
	a := newApp(programName(args[0]), w)
	root := a.root()
	argv, cmd, err := normalise(root, args[1:])
	if err == nil && a.asksUsage(argv, cmd, args) {
		a.bupUsage(cmd, nil)
		return bupUsageCode
	}
	if err == nil {
		root.SetArgs(argv)
		err = root.ExecuteContext(ctx)
		var bad *pflag.InvalidValueError
		if errors.As(err, &bad) { // in front of the command, where cobra asks no FlagErrorFunc
			err = flagError(err)
		}
	} else if slices.Contains(args, "--json") {
		a.common.json = true
	}
	return a.finish(ctx, cmd, err)
}

func newApp(name string, w world) *app {
	a := &app{
		world: w,
		name:  name,
		out:   bufio.NewWriterSize(w.Stdout, 64<<10),
		ui:    &tui{name: name, err: w.Stderr},
		now:   time.Now,
	}
	if w.Terminal != nil {
		a.outTTY = w.Terminal(w.Stdout)
	}
	return a
}

// finish says what is left to say and returns the exit code.
func (a *app) finish(ctx context.Context, cmd *cobra.Command, err error) int {
	a.ui.done()
	if errors.Is(err, errReaderGone) {
		err = nil
	}
	code := exitCode(ctx, err)
	if code == exitInterrupted {
		err = errors.New("interrupted")
	}
	code = a.programCode(code, err, cmd)
	if end := new(statusError); errors.As(err, &end) {
		code, err = end.code, nil
	}
	var advice []string
	if err != nil {
		advice = hints(a.name, err)
	}
	a.doc.end(a, commandName(cmd), code, err, advice)
	if ferr := a.out.Flush(); ferr != nil && err == nil && !errors.Is(ferr, syscall.EPIPE) {
		err = fmt.Errorf("standard output: %w", ferr)
		code = exitFailed
	}
	var partial *partialError
	switch {
	case errors.As(err, &partial):
		a.ui.line("%s", partial.msg)
		a.ui.hints(advice)
	case err != nil && code == bupUsageCode:
		a.bupUsage(cmd, err)
	case err != nil:
		a.ui.fail(err, advice)
	}
	return code
}

// errReaderGone ends a listing whose reader has closed the pipe (head, grep -q).
// Who asked has what was wanted, so that is no failure.
var errReaderGone = errors.New("the reader of standard output is gone")

// print writes a piece of a listing to standard output.
func (a *app) print(b []byte) error {
	if _, err := a.out.Write(b); errors.Is(err, syscall.EPIPE) {
		return errReaderGone
	} else if err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	return nil
}

// root makes the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   a.name + " [-d DIR] COMMAND [OPTION...] [ARGUMENT...]",
		Short: "a deduplicating backup engine on a plain git repository",
		Long:  rootHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withHint(usagef("no command given"), fmt.Sprintf("'%s help' lists them", a.name))
		},
		SilenceErrors:    true,
		SilenceUsage:     true,
		TraverseChildren: true,
	}
	root.SetOut(a.out)
	root.SetErr(a.ui)
	root.CompletionOptions.DisableDefaultCmd = true
	root.Flags().SortFlags = false
	a.commonFlags(root)
	root.Flags().BoolP("version", "V", false, "print the version")
	root.AddCommand(
		a.initCommand(), a.backupCommand(), a.indexCommand(), a.saveCommand(),
		a.lsCommand(), a.catFileCommand(), a.restoreCommand(), a.restoreStreamCommand(), a.fsckCommand(), a.mirrorCommand(),
		a.pruneCommand(), a.pinCommand(), a.gcCommand(), a.upkeepCommand(), a.statusCommand(), a.scheduleCommand(), a.runCommand(), a.guardCommand(), a.configCommand(), a.recoverCommand(), a.kitCommand(),
		a.serverCommand(), a.serveCommand(), a.clientCommand(),
		a.versionCommand(), a.completionCommand(), a.manCommand(), a.exitCodesTopic(),
	)
	root.AddCommand(a.historyCommands()...)
	root.AddCommand(a.streamCommands()...)
	root.SetHelpCommand(a.helpCommand())
	root.InitDefaultHelpCmd()
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate(helpTemplate)
	addHelp(root)
	return root
}

// addHelp adds --help to a command and those below it: options are looked up before cobra
// would add it.
func addHelp(c *cobra.Command) {
	c.InitDefaultHelpFlag()
	c.Flags().SortFlags = false
	c.Flags().Lookup("help").Usage = "show this help"
	for _, sub := range c.Commands() {
		addHelp(sub)
	}
}

// commandName returns the name of a command without that of the program: "config check".
func commandName(c *cobra.Command) string {
	if c.HasParent() && c.Parent().HasParent() {
		return commandName(c.Parent()) + " " + c.Name()
	}
	return c.Name()
}

// commonFlags adds the options that all commands share. A command that has a
// -d of its own (as bup's ls and save) defines it before.
func (a *app) commonFlags(cmd *cobra.Command) {
	f, c := cmd.Flags(), &a.common
	d, r := "d", "r"
	if f.ShorthandLookup("d") != nil {
		d = ""
	}
	if f.ShorthandLookup("r") != nil {
		r = ""
	}
	a.bupFlags(f)
	f.StringVarP(&c.dir, "dir", d, c.dir, "the repository and its index are in `DIR`")
	f.StringVar(&c.dir, "bup-dir", c.dir, "")
	f.Lookup("bup-dir").Hidden = true
	f.StringVarP(&c.remote, "remote", r, "", "use the repository at `URL`, and only the index of DIR")
	c.reach.flags(f)
	c.store.flags(f)
	f.BoolVarP(&c.quiet, "quiet", "q", false, "show no progress and no summary")
	f.VarPF(&c.verbose, "verbose", "v", "say more; twice: still more").NoOptDefVal = "+1"
	f.BoolVar(&c.json, "json", false, "print the result as one JSON object (docs/json.md)")
	f.BoolVar(&c.noProgress, "no-progress", false, "show no progress, though standard error is a terminal")
	f.IntVar(&c.cpu, "cpu", 0, "use at most `N` processors (default: all)")
	f.DurationVar(&c.wait, "wait", 30*time.Second, "wait for locks and sessions of others at most this `TIME`: 90s, 10m")
}

// command completes the definition of a command: what it does is run.
func (a *app) command(cmd *cobra.Command, run func(ctx context.Context, args []string) error) *cobra.Command {
	a.commonFlags(cmd)
	cmd.DisableFlagsInUseLine = true
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := a.begin(); err != nil {
			return err
		}
		return run(cmd.Context(), args)
	}
	cmd.Args = countArgs(cmd.Args)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	return cmd
}

// countArgs puts our words in the place of cobra's where it counts arguments.
func countArgs(inner cobra.PositionalArgs) cobra.PositionalArgs {
	if inner == nil {
		return nil
	}
	return func(cmd *cobra.Command, args []string) error {
		if inner(cmd, args) == nil {
			return nil
		}
		usage := "usage: " + cmd.CommandPath() + strings.TrimPrefix(cmd.Use, cmd.Name())
		for n := len(args) - 1; n >= 0; n-- {
			if inner(cmd, args[:n]) == nil {
				return withHint(usagef("%s: argument %s is one too many", cmd.Name(), quote(args[n])), usage)
			}
		}
		return withHint(usagef("%s needs %s", cmd.Name(), needed(cmd.Use)), usage)
	}
}

// needed returns the words of a usage line that stand in no brackets, without the
// command's.
func needed(use string) string {
	var words []string
	depth := 0
	for _, w := range strings.Fields(use)[1:] {
		if depth == 0 && w[0] != '[' {
			words = append(words, strings.TrimSuffix(w, "..."))
			continue
		}
		depth += strings.Count(w, "[") - strings.Count(w, "]")
	}
	return strings.Join(words, " ")
}

// flagError turns pflag's complaint about a value into one of ours.
func flagError(err error) error {
	var bad *pflag.InvalidValueError
	var num *strconv.NumError
	switch {
	case errors.As(err, &bad) && errors.As(err, &num):
		return usagef("option --%s: %q is no number", bad.GetFlag().Name, num.Num)
	case errors.As(err, &bad):
		return usagef("option --%s: %v", bad.GetFlag().Name, errors.Unwrap(bad))
	}
	return usagef("%v", err)
}

// begin puts the common options into effect.
func (a *app) begin() error {
	switch n := a.common.cpu; {
	case n < 0:
		return usagef("option --cpu: %d is no number of processors", n)
	case n > 0:
		runtime.GOMAXPROCS(n)
	}
	if a.common.wait < 0 {
		return usagef("option --wait: %v is no time to wait", a.common.wait)
	}
	if a.common.quiet {
		return nil
	}
	a.ui.chatty = a.common.verbose > 0
	if a.Terminal != nil {
		width := a.Terminal(a.Stderr)
		a.ui.chatty = a.ui.chatty || width > 0
		if !a.common.noProgress {
			a.ui.width = width
		}
	}
	return nil
}

// appendName appends a name for standard output: its bytes, escaped if they go
// to a terminal.
func (a *app) appendName(dst []byte, name string) []byte {
	if a.outTTY > 0 {
		name = escape(name)
	}
	return append(dst, name...)
}

// workers returns the number of goroutines for work that keeps a processor busy.
func (a *app) workers() int { return runtime.GOMAXPROCS(0) }

// patience returns --wait as repositories take it, where 0 is their own default.
func (a *app) patience() time.Duration {
	if a.common.wait == 0 {
		return -1
	}
	return a.common.wait
}

// home returns DIR: the directory of the repository and the index.
func (a *app) home() (string, error) {
	dir := a.common.dir
	if dir == "" {
		dir = a.defaultDir()
	}
	if isURL(dir) {
		return "", withHint(usagef("-d takes a directory, not %s", quote(dir)), "-r takes an address")
	}
	return filepath.Abs(dir)
}

// indexPath returns the path of the file index in DIR.
func indexPath(home string) string { return filepath.Join(home, "kedge", "index") }
