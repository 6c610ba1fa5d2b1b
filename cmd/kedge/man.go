package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const manHelp = `Man writes the manual pages of all commands into a directory, kedge.1 and
kedge-COMMAND.1. They are made from the same text as --help. $SOURCE_DATE_EPOCH is
the date they bear.`

func (a *app) manCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "man DIR",
		Short:   "write the manual pages into a directory",
		Long:    manHelp,
		Example: "  kedge man /usr/local/share/man/man1",
		Args:    cobra.ExactArgs(1),
		Hidden:  true,
	}
	return a.command(cmd, func(_ context.Context, args []string) error {
		if err := os.MkdirAll(args[0], 0o755); err != nil {
			return err
		}
		date := a.now()
		if s := a.Env("SOURCE_DATE_EPOCH"); s != "" {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return usagef("SOURCE_DATE_EPOCH=%s is no date", s)
			}
			date = time.Unix(n, 0)
		}
		root := cmd.Root()
		pages := appendPages(nil, root)
		for _, c := range pages {
			if err := os.WriteFile(filepath.Join(args[0], pageName(c)+".1"), manPage(c, pages, date.UTC()), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

// appendPages adds those commands to pages that have one: a command and those below it.
func appendPages(pages []*cobra.Command, c *cobra.Command) []*cobra.Command {
	pages = append(pages, c)
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			pages = appendPages(pages, sub)
		}
	}
	return pages
}

// pageName returns the name of a command's page.
func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// roff writes a manual page. cobra has a writer of its own, but shows options
// as Go's flags are, --tree[=false], which this program does not take.
type roff struct{ bytes.Buffer }

// manPage writes the page of a command.
func manPage(c *cobra.Command, pages []*cobra.Command, date time.Time) []byte {
	var r roff
	r.Write(fmt.Appendf(nil, ".TH %s 1 %s \"kedge %s\" Kedge\n", strings.ToUpper(pageName(c)), date.Format("2006-01-02"), version))
	r.section("NAME")
	r.text(pageName(c) + " - " + c.Short)
	r.section("SYNOPSIS")
	if c.HasParent() {
		r.text(c.Parent().CommandPath() + " " + c.Use)
	} else {
		r.text(c.Use)
	}
	r.section("DESCRIPTION")
	r.prose(c.Long)
	if !c.HasParent() {
		r.section("COMMANDS")
		for _, p := range pages[1:] {
			r.item(func() { r.bold(commandName(p)) }, p.Short)
		}
	}
	r.section("OPTIONS")
	c.LocalFlags().VisitAll(r.option)
	if c.HasExample() {
		r.section("EXAMPLES")
		r.verbatim(strings.Split(c.Example, "\n"))
	}
	r.section("EXIT STATUS")
	for _, e := range exitText {
		r.item(func() { r.bold(strconv.Itoa(e.code)) }, e.text)
	}
	r.section("SEE ALSO")
	var names []string
	for _, p := range pages {
		if p != c {
			names = append(names, pageName(p)+"(1)")
		}
	}
	r.text(strings.Join(names, ", "))
	return r.Bytes()
}

func (r *roff) section(name string) { r.WriteString(".SH " + name + "\n") }

// text writes words, so that roff sees none of them as its own.
func (r *roff) text(s string) {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	r.WriteString(s + "\n")
}

func (r *roff) bold(s string) {
	r.WriteString(`\fB`)
	r.WriteString(strings.ReplaceAll(s, "-", `\-`))
	r.WriteString(`\fP`)
}

// prose writes the text of a help: paragraphs, between which indented lines
// stand as they are.
func (r *roff) prose(s string) {
	for i, par := range strings.Split(s, "\n\n") {
		lines := strings.Split(par, "\n")
		if i > 0 {
			r.WriteString(".PP\n")
		}
		if strings.HasPrefix(par, "    ") {
			r.verbatim(lines)
			continue
		}
		for _, line := range lines {
			r.text(line)
		}
	}
}

// verbatim writes lines as they are, but for their indentation.
func (r *roff) verbatim(lines []string) {
	r.WriteString(".RS 4\n.nf\n")
	for _, line := range lines {
		r.text(strings.TrimLeft(line, " "))
	}
	r.WriteString(".fi\n.RE\n")
}

// item writes an entry of a list.
func (r *roff) item(what func(), text string) {
	r.WriteString(".TP\n")
	what()
	r.WriteString("\n")
	r.text(text)
}

// option writes an option, its value and its help.
func (r *roff) option(f *pflag.Flag) {
	if f.Hidden {
		return
	}
	value, usage := pflag.UnquoteUsage(f)
	r.item(func() {
		if f.Shorthand != "" {
			r.bold("-" + f.Shorthand)
			r.WriteString(", ")
		}
		r.bold("--" + f.Name)
		if f.NoOptDefVal == "" && value != "" {
			r.WriteString(` \fI` + value + `\fP`)
		}
	}, usage)
}
