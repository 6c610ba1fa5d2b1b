package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
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
		root := cmd.Root()
		root.DisableAutoGenTag = true
		return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "kedge " + version, Manual: "Kedge"}, args[0])
	})
}
