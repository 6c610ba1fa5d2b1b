package main

import "github.com/spf13/cobra"

// historyCommands are those of bup's commands that manage saves and look at what is
// stored of them.
func (a *app) historyCommands() []*cobra.Command {
	return append(a.otherImports(),
		a.tagCommand(), a.rmCommand(), a.getCommand(), a.pruneOlderCommand(),
		a.validateObjectsCommand(), a.validateLinksCommand(), a.validateRefsCommand(),
		a.drecurseCommand(), a.xstatCommand(), a.metaCommand(), a.ftpCommand(), a.rsnapshotCommand(), a.adoptCommand(),
	)
}
