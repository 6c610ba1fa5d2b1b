package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/repo"
)

// This file is all that changes when the program is called by the name bup:
// where the default repository is, and the exit codes, which are those of bup
// after 0.33:
//
//	0    done
//	1    ls found no such path; validate-... found damage
//	2    anything else that failed, or was left out
//	14   DIR is there but is no repository
//	15   DIR is not there
//	97   wrong usage of a command
//	130  interrupted

// programName returns the name under which the program speaks: bup if it was
// called so, kedge whatever else its file is called.
func programName(arg0 string) string {
	if filepath.Base(arg0) == "bup" {
		return "bup"
	}
	return "kedge"
}

// dirVariable returns the environment variable that names the repository.
func dirVariable(name string) string {
	if name == "bup" {
		return "BUP_DIR"
	}
	return "KEDGE_DIR"
}

// defaultDir returns DIR where no option says it.
func (a *app) defaultDir() string {
	if dir := a.Env(dirVariable(a.name)); dir != "" {
		return dir
	}
	if home := a.Env("HOME"); home != "" {
		return filepath.Join(home, "."+a.name)
	}
	return "/var/lib/kedge"
}

// programCode translates an exit code of kedge into the program's.
func (a *app) programCode(code int, err error, cmd *cobra.Command) int {
	if a.name != "bup" {
		return code
	}
	switch code {
	case exitDone, exitInterrupted:
		return code
	case exitUsage:
		if cmd.HasParent() && cmd.Name() != "get" { // which has a parser of its own there
			return bupUsageCode
		}
	case exitDamaged:
		par2 := cmd.Name() == "fsck" && cmd.Flags().Changed("par2-ok")
		if strings.HasPrefix(cmd.Name(), "validate-") || cmd.Name() == "bloom" || par2 {
			return 1
		}
	case exitNotFound:
		return a.bupNotFound(err, cmd)
	}
	return 2
}

// bupUsageCode is the exit code of a command line that is wrong, under the name bup.
const bupUsageCode = 97

// bupFlags adds the options that all of bup's commands share, and that mean nothing here.
func (a *app) bupFlags(f *pflag.FlagSet) {
	if a.name != "bup" {
		return
	}
	f.BoolP("debug", "D", false, "")
	f.Bool("profile", false, "")
	f.Lookup("debug").Hidden, f.Lookup("profile").Hidden = true, true
}

// parityFlags adds the options of bup's fsck that are about par2, and returns what is to be
// done about them before anything else: nil if nothing was asked for that is not there.
func (a *app) parityFlags(f *pflag.FlagSet) (check func() error) {
	if a.name != "bup" {
		return func() error { return nil }
	}
	f.IntP("jobs", "j", 0, "accepted: `N`; --cpu says how many processors are used")
	f.Bool("disable-par2", false, "accepted: par2 is never used")
	ok := f.Bool("par2-ok", false, "fail: par2 is not used")
	generate := f.BoolP("generate", "g", false, "refused: no recovery data is made with par2")
	repair := f.BoolP("repair", "r", false, "refused: nothing is repaired with par2")
	return func() error {
		switch {
		case *generate || *repair:
			return usagef("no recovery data is made or used with par2; 'kedge mirror' keeps a second copy")
		case *ok:
			return &codedError{exitDamaged, errors.New("par2 is not used")}
		}
		return nil
	}
}

// asksUsage reports whether a command line asks for a command's options. Where --help is
// the first word it asks for its page instead, which "help" prints.
func (a *app) asksUsage(argv []string, cmd *cobra.Command, args []string) bool {
	if a.name != "bup" || !cmd.HasParent() || !slices.Contains(argv, "--help=true") {
		return false
	}
	for i, arg := range args[:len(args)-1] {
		if arg == cmd.Name() || cmd.HasAlias(arg) {
			return args[i+1] != "--help"
		}
	}
	return true
}

// bupUsage prints the options of a command, and what was wrong, as bup does.
func (a *app) bupUsage(cmd *cobra.Command, err error) {
	text := "usage: " + a.name + " " + cmd.Use + "\n\n" + cmd.LocalFlags().FlagUsagesWrapped(80)
	if err != nil {
		text += "\nerror: " + escapeText(err.Error()) + "\n"
	}
	a.ui.raw([]byte(text))
}

func (a *app) bupNotFound(err error, cmd *cobra.Command) int {
	var e *repo.NotFoundError
	if errors.As(err, &e) && e.What == "repository" {
		if _, serr := a.FS.Lstat(e.Name); errors.Is(serr, fs.ErrNotExist) {
			return 15
		}
		return 14
	}
	if cmd.Name() == "ls" {
		return 1
	}
	return 2
}
