package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

const featuresHelp = `Features tells what this program can do here, in the words of bup's command.`

func (a *app) featuresCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "features",
		Short:   "tell what this program can do",
		Long:    featuresHelp,
		Example: "  kedge features",
		Args:    cobra.NoArgs,
		Hidden:  true,
	}
	return a.command(cmd, func(context.Context, []string) error {
		first := a.name + " " + version
		if a.name == "bup" {
			first = "bup " + bupVersion
		}
		return a.print(fmt.Appendf(nil, `%s
Source  kedge %s
    Go: %s
    Command line editing (e.g. bup ftp): yes
    Saving and restoring POSIX ACLs: yes
    Saving and restoring extended attributes (xattrs): yes
`, first, version, runtime.Version()))
	})
}
