package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// version is the version of the program. Commits that kedge makes bear it. The
// Makefile has the linker put in what git describe says; it never changes at run time.
var version = "0.1.0"

// bupVersion is the version of bup whose commands and outputs are taken, under that name.
const bupVersion = "0.33.10"

const versionHelp = `Version prints the version of the program; with --commit the commit it was built
from, with --date when that was made, with -v also the compiler and the platform.`

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version [--commit | --date] [-v]",
		Short:   "print the version",
		Long:    versionHelp,
		Example: "  kedge version -v",
		Args:    cobra.NoArgs,
	}
	commit := cmd.Flags().Bool("commit", false, "print the commit it was built from")
	date := cmd.Flags().Bool("date", false, "print when that commit was made")
	return a.command(cmd, func(context.Context, []string) error {
		v := versionResult{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, s := range info.Settings {
				switch s.Key {
				case "vcs.revision":
					v.Commit = s.Value
				case "vcs.time":
					v.Date = s.Value
				}
			}
		}
		a.doc.result = v
		switch {
		case a.common.json:
			return nil
		case *commit && *date:
			return usagef("at most one option expected")
		case *commit:
			return a.print([]byte(orUnknown(v.Commit) + "\n"))
		case *date:
			if a.name == "bup" {
				v.Date, _, _ = strings.Cut(v.Date, "T")
			}
			return a.print([]byte(orUnknown(v.Date) + "\n"))
		case a.name == "bup":
			return a.print([]byte(bupVersion + "\n"))
		case a.common.verbose > 0:
			return a.print(fmt.Appendf(nil, "%s %s\ncommit %s of %s\n%s %s\n",
				a.name, version, orUnknown(v.Commit), orUnknown(v.Date), v.Go, v.Platform))
		}
		return a.print([]byte(a.name + " " + version + "\n"))
	})
}

// versionResult is the result of version in JSON.
type versionResult struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Date     string `json:"date,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
