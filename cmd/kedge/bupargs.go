package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// This file is bup's option grammar, as a translation in front of cobra:
//
//	kedge -d /srv/b save -9n etc --dry /etc -- -x
//
// becomes
//
//	kedge --dir=/srv/b save --compress=9 --name=etc --dry-run=true -- /etc -x
//
// so that the commands know one grammar only, and cobra's parser never has to
// decide anything. The rules:
//
//   - Options and operands may be mixed; "--" ends the options. "-" is an operand.
//   - A long option may be cut short as long as it stays the only one. Those that
//     the help does not show are written out.
//   - Each long option without a value has a --no-form, and one whose name begins
//     with no- has the form without.
//   - A value follows as "--name=VALUE", "--name VALUE", "-nVALUE" or "-n VALUE".
//     It is never empty: --dir="$UNSET" must not be the default directory.
//   - Options that count may be given together: -vv.
//   - A number as an option, -0 to -9, is a level, in commands that have one.
//   - Options in front of the command name are those of every command. There -d
//     is the directory. After the name it is what the command says it is.
//   - -h, -?, --help and --usage ask for help.

// levelAnnotation marks the option that -0 to -9 stand for, pairAnnotation one that
// takes two values, which reach it with pairSeparator between them: no argument of a
// program has a NUL in it.
const (
	levelAnnotation = "kedge_level"
	pairAnnotation  = "kedge_pair"
	pairSeparator   = "\x00"
	firstAnnotation = "kedge_first" // of a command whose options all stand in front of its first operand
)

// normalise translates a command line. It returns the command that will run.
func normalise(root *cobra.Command, args []string) (argv []string, cmd *cobra.Command, err error) {
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		plainUsage(root)
		return args, root, nil // a shell asks for completions: cobra's own business
	}
	n := normaliser{flags: root.Flags()}
	rest, err := n.options(args, true)
	if err != nil {
		return nil, root, err
	}
	if slices.Contains(n.out, "--version=true") {
		n.out, rest = slices.DeleteFunc(n.out, func(s string) bool { return s == "--version=true" }), []string{"version"}
	}
	if len(rest) == 0 {
		return n.out, root, nil
	}
	cmd = findCommand(root, rest[0])
	if cmd == nil {
		return nil, root, unknownCommand(root, rest[0])
	}
	argv, rest = append(n.out, cmd.Name()), rest[1:]
	if len(rest) > 0 { // a command of a command stands right behind it
		if sub := findCommand(cmd, rest[0]); sub != nil {
			argv, rest, cmd = append(argv, sub.Name()), rest[1:], sub
		}
	}
	n = normaliser{flags: cmd.Flags()}
	_, first := cmd.Annotations[firstAnnotation]
	operands, err := n.options(rest, first)
	if err != nil {
		return nil, cmd, err
	}
	argv = append(argv, n.out...)
	if len(operands) > 0 {
		argv = append(append(argv, "--"), operands...)
	}
	return argv, cmd, nil
}

func findCommand(root *cobra.Command, name string) *cobra.Command {
	for _, c := range root.Commands() {
		if c.Name() == name || c.HasAlias(name) {
			return c
		}
	}
	return nil
}

func unknownCommand(root *cobra.Command, name string) error {
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(append(names, c.Name()), c.Aliases...)
		}
	}
	err := usagef("there is no command %s", quote(name))
	if near := nearest(name, names); near != "" {
		return withHint(err, "did you mean "+near+"?")
	}
	return err
}

// normaliser translates the options of one command.
type normaliser struct {
	flags *pflag.FlagSet
	out   []string // canonical options
}

// options translates the options among args and returns the operands. With
// first it stops at the first operand, and returns it and all that follows.
func (n *normaliser) options(args []string, first bool) (operands []string, err error) {
	for len(args) > 0 && err == nil {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return append(operands, args...), nil
		case strings.HasPrefix(arg, "--"):
			args, err = n.long(arg[2:], args)
		case len(arg) > 1 && arg[0] == '-':
			args, err = n.short(arg[1:], args)
		case first:
			return append([]string{arg}, args...), nil
		default:
			operands = append(operands, arg)
		}
	}
	return operands, err
}

// long translates "--name" or "--name=value"; rest is what follows.
func (n *normaliser) long(arg string, rest []string) ([]string, error) {
	name, value, hasValue := strings.Cut(arg, "=")
	f, negated, err := n.find(name)
	if err != nil {
		return nil, err
	}
	switch {
	case negated && hasValue, f.NoOptDefVal != "" && hasValue:
		return nil, usagef("option --%s takes no value", escape(name))
	case negated:
		n.out = append(n.out, "--"+f.Name+"="+zeroOf(f))
	case f.NoOptDefVal != "":
		n.set(f)
	case isPair(f):
		return n.pair(f, value, hasValue, rest)
	case hasValue:
		return rest, n.give(f, value)
	case len(rest) == 0:
		return nil, usagef("option --%s needs a value", f.Name)
	default:
		return rest[1:], n.give(f, rest[0])
	}
	return rest, nil
}

// give writes an option with its value.
func (n *normaliser) give(f *pflag.Flag, value string) error {
	if value == "" {
		return usagef("option --%s: its value is empty", f.Name)
	}
	n.out = append(n.out, "--"+f.Name+"="+value)
	return nil
}

func isPair(f *pflag.Flag) bool {
	_, ok := f.Annotations[pairAnnotation]
	return ok
}

// pair writes an option with two values.
func (n *normaliser) pair(f *pflag.Flag, value string, hasValue bool, rest []string) ([]string, error) {
	if hasValue {
		rest = append([]string{value}, rest...)
	}
	if len(rest) < 2 || rest[0] == "" || rest[1] == "" {
		return nil, usagef("option --%s needs two values", f.Name)
	}
	return rest[2:], n.give(f, rest[0]+pairSeparator+rest[1])
}

// short translates a cluster of one-letter options, the last of which may have
// a value.
func (n *normaliser) short(cluster string, rest []string) ([]string, error) {
	for i := 0; i < len(cluster); i++ {
		if c := cluster[i]; c >= '0' && c <= '9' {
			end := i + len(cluster[i:]) - len(strings.TrimLeft(cluster[i:], "0123456789"))
			level := n.level()
			if level == nil {
				return nil, usagef("there is no option -%c", c)
			}
			n.out = append(n.out, "--"+level.Name+"="+cluster[i:end])
			i = end - 1
			continue
		}
		f := n.flags.ShorthandLookup(cluster[i : i+1])
		switch {
		case f == nil && cluster[i] == '?':
			n.out = append(n.out, "--help=true")
		case f == nil:
			return nil, usagef("there is no option -%s", escape(cluster[i:i+1]))
		case f.NoOptDefVal != "":
			n.set(f)
		case i+1 < len(cluster):
			return rest, n.give(f, cluster[i+1:])
		case len(rest) == 0:
			return nil, usagef("option -%s needs a value", f.Shorthand)
		default:
			return rest[1:], n.give(f, rest[0])
		}
	}
	return rest, nil
}

// set writes an option that takes no value: a switch is turned on, a counter
// goes one up.
func (n *normaliser) set(f *pflag.Flag) {
	n.out = append(n.out, "--"+f.Name+"="+f.NoOptDefVal)
}

// zeroOf returns what turns an option off.
func zeroOf(f *pflag.Flag) string {
	if f.Value.Type() == "bool" {
		return "false"
	}
	return "0"
}

func (n *normaliser) level() (level *pflag.Flag) {
	n.flags.VisitAll(func(f *pflag.Flag) {
		if _, ok := f.Annotations[levelAnnotation]; ok {
			level = f
		}
	})
	return level
}

// spelling is one way to write an option.
type spelling struct {
	name    string
	flag    *pflag.Flag
	negated bool
}

// find returns the option that a name, or the beginning of one, means.
func (n *normaliser) find(name string) (f *pflag.Flag, negated bool, err error) {
	if name == "usage" {
		name = "help"
	}
	var fits []spelling
	for _, s := range n.spellings() {
		switch {
		case s.name == name:
			return s.flag, s.negated, nil
		case !s.flag.Hidden && strings.HasPrefix(s.name, name):
			fits = append(fits, s)
		}
	}
	switch {
	case len(fits) == 0:
		return nil, false, n.unknownOption(name)
	case len(fits) > 1:
		return nil, false, usagef("option --%s may be %s", escape(name), listSpellings(fits))
	}
	return fits[0].flag, fits[0].negated, nil
}

// spellings returns all ways to write the long options. Those that the help
// shows come first and win where two are the same.
func (n *normaliser) spellings() []spelling {
	var plain, opposite []spelling
	n.flags.VisitAll(func(f *pflag.Flag) {
		plain = append(plain, spelling{f.Name, f, false})
		if f.NoOptDefVal == "" || f.Name == "help" {
			return
		}
		if bare, ok := strings.CutPrefix(f.Name, "no-"); ok {
			opposite = append(opposite, spelling{bare, f, true})
		} else {
			opposite = append(opposite, spelling{"no-" + f.Name, f, true})
		}
	})
	return append(plain, opposite...)
}

func listSpellings(fits []spelling) string {
	names := make([]string, len(fits))
	for i, s := range fits {
		names[i] = "--" + s.name
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 6 {
		names = append(names[:6], "…")
	}
	return strings.Join(names, " or ")
}

func (n *normaliser) unknownOption(name string) error {
	err := usagef("there is no option --%s", escape(name))
	var names []string
	for _, s := range n.spellings() {
		if !s.flag.Hidden {
			names = append(names, s.name)
		}
	}
	if near := nearest(name, names); near != "" {
		return withHint(err, fmt.Sprintf("did you mean --%s?", near))
	}
	return err
}

// nearest returns the name that differs least from a mistyped one, or "" if
// none is near.
func nearest(name string, names []string) string {
	if len(name) > 64 {
		return ""
	}
	best, found := 1+len(name)/3, ""
	for _, n := range names {
		if d := distance(name, n); d <= best && (found == "" || d < best) {
			best, found = d, n
		}
	}
	return found
}

// distance counts the letters to insert, delete, replace or swap with the next
// to get from a to b.
func distance(a, b string) int {
	prev, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before := prev
		prev = row
		row = make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
