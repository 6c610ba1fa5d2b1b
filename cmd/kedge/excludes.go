package main

import (
	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/index"
)

// excludes are the options that say what a walk leaves out.
type excludes struct {
	paths, pathsFrom []string
	rx, rxFrom       []string
	globs            []string
	caches           bool
	ifPresent        []string
}

func (x *excludes) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&x.paths, "exclude", nil, "leave out `PATH` and all below it; may be repeated")
	f.StringArrayVar(&x.pathsFrom, "exclude-from", nil, "the same for each line of `FILE`")
	f.StringArrayVar(&x.rx, "exclude-rx", nil, "leave out what the regular expression `RE` matches")
	f.StringArrayVar(&x.rxFrom, "exclude-rx-from", nil, "the same for each line of `FILE`")
	f.StringArrayVar(&x.globs, "exclude-glob", nil, "leave out what the shell pattern `GLOB` matches")
	f.BoolVar(&x.caches, "exclude-caches", false, "leave out what is in directories marked with CACHEDIR.TAG")
	f.StringArrayVar(&x.ifPresent, "exclude-if-present", nil, "leave out what is in directories that hold `NAME`")
}

// compile checks the patterns.
func (x *excludes) compile(a *app) (*index.Exclude, error) {
	ex := &index.Exclude{Caches: x.caches}
	addPath := func(p string) error {
		abs, err := sourcePath(p)
		if err != nil {
			return err
		}
		return ex.AddPath(abs)
	}
	for _, o := range []struct {
		option string
		values []string
		add    func(string) error
	}{
		{"exclude", x.paths, addPath},
		{"exclude-rx", x.rx, ex.AddRegexp},
		{"exclude-glob", x.globs, ex.AddGlob},
		{"exclude-if-present", x.ifPresent, ex.AddTag},
	} {
		for _, v := range o.values {
			if err := o.add(v); err != nil {
				return nil, usagef("option --%s: %v", o.option, err)
			}
		}
	}
	if err := a.patterns("exclude-from", x.pathsFrom, true, addPath); err != nil {
		return nil, err
	}
	return ex, a.patterns("exclude-rx-from", x.rxFrom, false, ex.AddRegexp)
}

// maxPatternFile is the largest file of patterns that is read.
const maxPatternFile = 16 << 20

// patterns calls add for each line of the files an option names. strip takes
// white space off both ends: of paths, as bup does, but not of expressions.
func (a *app) patterns(option string, files []string, strip bool, add func(string) error) error {
	for _, name := range files {
		text, err := a.FS.ReadFile(name, maxPatternFile)
		if err != nil {
			return usagef("option --%s: %v", option, err)
		}
		for line := range index.PatternLines(string(text), strip) {
			if err := add(line); err != nil {
				return usagef("option --%s: %s: %v", option, name, err)
			}
		}
	}
	return nil
}
