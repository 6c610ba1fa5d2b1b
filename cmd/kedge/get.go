package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/get"
)

const getHelp = `Get copies saves, tags and directories from one repository to another. Both are DIR
unless -s and -r say otherwise. A METHOD says what is copied and what becomes of it:

    --ff REF           move a branch on to REF, of which it must have the beginning
    --append REF       put copies of all saves up to REF on top; a directory as one
    --pick REF         put a copy of the one save REF on top
    --force-pick REF   the same; a tag that is there moves on
    --new-tag REF      make a tag
    --replace REF      put a branch or a tag to where REF is, whatever it was before
    --unnamed REF      only copy what REF reaches; REF may be git:ID

REF is a path as in 'kedge ls', in the source. In the destination it goes to the same
name, or, with a colon behind the method, to another one:

    --ff: web1/latest web1-old

A copy of a save keeps its date and its contents. What the destination has is not copied
again, and refs are moved when everything is there: an interrupted get is started anew
and goes on where it was.

Two repositories that split files in different ways share nothing. Get then asks for
--copy, which copies all the same.`

const getExample = `  kedge get -s /mnt/old/.bup --ff web1 --ff web2
  kedge get -s /mnt/old/.bup -r host:REPO --append: web1 web1-2024
  kedge get --pick: web1/2026-11-21-220000 kept --new-tag: web1/latest .tag/good`

// getOptions is the options of get. Methods apply in the order in which they stand.
type getOptions struct {
	source, url          string
	trees, commits, tags bool
	ignoreMissing, copy  bool
	bwlimit              sizeValue
	level                int
	orders               []get.Order
}

func (a *app) getCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "get [-s SOURCE] [-r URL] METHOD REF...",
		Short:             "copy saves and tags from another repository",
		Long:              getHelp,
		Example:           getExample,
		Args:              cobra.NoArgs,
		ValidArgsFunction: a.completeSaved,
	}
	o := getOptions{level: -1}
	f := cmd.Flags()
	f.StringVarP(&o.source, "source", "s", "", "copy from the repository at `SOURCE`, a directory or an address")
	f.StringVarP(&o.url, "source-url", "S", "", "the same, as bup calls it: `URL`")
	f.Lookup("source-url").Hidden = true
	f.BoolVarP(&o.trees, "print-trees", "t", false, "print the id of the tree of each save that a branch is put to")
	f.BoolVarP(&o.commits, "print-commits", "c", false, "print the id of the commit that each branch is put to")
	f.BoolVar(&o.tags, "print-tags", false, "print the id that each tag is put to")
	for m := get.FastForward; m <= get.Unnamed; m++ {
		o.methodFlags(f, m)
	}
	f.BoolVar(&o.copy, "copy", false, "copy though the repositories split files in different ways")
	v := f.VarPF(&contextual{&o.ignoreMissing}, "ignore-missing", "", "pass over what the source lacks, with the --unnamed that follow")
	v.NoOptDefVal = "true"
	for _, name := range []string{"rewrite", "repair", "no-excludes"} {
		refuse(f, name, "true")
	}
	for _, name := range []string{"repair-id", "exclude-rx", "exclude-rx-from"} {
		refuse(f, name, "")
	}
	f.Var(&o.bwlimit, "bwlimit", "send at most `SIZE` bytes a second")
	f.IntVar(&o.level, "compress", -1, "deflate what is encoded anew at `LEVEL`, 0 to 9")
	_ = f.SetAnnotation("compress", levelAnnotation, nil)
	return a.command(cmd, func(ctx context.Context, _ []string) error { return a.get(ctx, &o) })
}

// methodFlags defines --METHOD and, but for unnamed, --METHOD:.
func (o *getOptions) methodFlags(f *pflag.FlagSet, m get.Method) {
	help := map[get.Method]string{
		get.FastForward: "move a branch on to `REF`",
		get.Append:      "put copies of all saves up to `REF` on a branch",
		get.Pick:        "put a copy of the save `REF` on a branch",
		get.ForcePick:   "the same of `REF`, and a tag that is there moves on to it",
		get.NewTag:      "make a tag of `REF`",
		get.Replace:     "put a branch or a tag to `REF`",
		get.Unnamed:     "copy `REF` without giving it a name",
	}
	f.Var(&method{o, m, false}, m.String(), help[m])
	if m == get.Unnamed {
		return
	}
	f.Var(&method{o, m, true}, m.String()+":", "")
	f.Lookup(m.String() + ":").Hidden = true
	_ = f.SetAnnotation(m.String()+":", pairAnnotation, nil)
}

// method is the value of --METHOD, which adds an order.
type method struct {
	o    *getOptions
	m    get.Method
	pair bool
}

// Set adds the order for REF, or for REF and DEST with pairSeparator between them.
func (v *method) Set(s string) error {
	order := get.Order{Method: v.m, Ref: s, IgnoreMissing: v.o.ignoreMissing}
	if v.pair {
		order.Ref, order.Dest, _ = strings.Cut(s, pairSeparator)
	}
	v.o.orders = append(v.o.orders, order)
	return nil
}

// Type says what the help shows where the usage names no value.
func (v *method) Type() string { return "string" }

func (v *method) String() string { return "" }

// contextual is a switch that holds for the options behind it.
type contextual struct{ on *bool }

// Set turns it on or off.
func (c *contextual) Set(s string) error {
	*c.on = s == "true"
	return nil
}

// Type is bool, so that there is a --no-form.
func (c *contextual) Type() string { return "bool" }

func (c *contextual) String() string { return "false" }

// refuse defines an option that bup has and kedge has not, to be refused by name.
func refuse(f *pflag.FlagSet, name, novalue string) {
	f.Var(refused(name), name, "")
	f.Lookup(name).Hidden, f.Lookup(name).NoOptDefVal = true, novalue
}

// refused is the value of an option that is refused.
type refused string

// Set says what to do instead.
func (r refused) Set(string) error {
	return fmt.Errorf("saves are copied as they are; 'restore' and 'save' write them anew (docs/bup.md)")
}

// Type is that of a switch or a text; nobody sees it.
func (r refused) Type() string { return "string" }

func (r refused) String() string { return "" }

func (a *app) get(ctx context.Context, o *getOptions) error {
	if o.level < -1 || o.level > 9 {
		return usagef("option --compress: there is no level %d", o.level)
	}
	if o.source == "" {
		o.source = o.url
	}
	src, err := a.openSource(ctx, o.source)
	if err != nil {
		return err
	}
	defer a.closeRepo(src)
	dst, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer a.closeRepo(dst)
	if err := sameSplits(src.Config(), dst.Config()); err != nil && !o.copy {
		return err
	}
	res, err := get.Run(ctx, get.Options{
		Source: src, Dest: dst, Orders: o.orders, Zone: time.Local, Who: a.author(), Now: a.now(), Workers: a.workers(),
		Message: a.name + " get\n", Level: max(1, o.level), BytesPerSecond: int64(o.bwlimit), Stats: repo.MoveStats{Principal: a.whoami()},
		Replacing: func(ctx context.Context, moves []repo.Move) error { return notePruned(ctx, dst, moves) },
		Skipped:   func(id pack.ID) { a.ui.warn("object "+id.String(), errors.New("missing in the source")) },
		Progress: func(objects, bytes int64) {
			a.ui.progress(func() string { return fmt.Sprintf("copying: %s, %s", plural(objects, "object"), formatSize(bytes)) })
		},
	})
	a.ui.done()
	a.doc.result = getJSON(res)
	if perr := a.printGot(o, res); err == nil {
		err = perr
	}
	if bad := new(get.OrderError); errors.As(err, &bad) {
		return usagef("%v", err)
	}
	if err != nil {
		return err
	}
	if res.Skipped > 0 {
		return &partialError{plural(res.Skipped, "object") + " missing in the source; the rest is copied"}
	}
	a.ui.note("copied %s, %s; moved %s", plural(res.Objects, "object"), formatSize(res.Bytes), plural(int64(len(res.Moves)), "ref"))
	return nil
}

// openSource opens the repository that get copies from, "" that of this run.
func (a *app) openSource(ctx context.Context, at string) (repository, error) {
	from := *a
	if at != "" {
		from.common.remote = at
	} else {
		from.common.remote = ""
	}
	return from.open(ctx, true)
}

// sameSplits refuses to mix what was split in different ways.
func sameSplits(src, dst repo.Config) error {
	if src.Chunker == dst.Chunker && src.SplitTrees == dst.SplitTrees {
		return nil
	}
	return withHint(usagef("the source splits files by %s and the destination by %s: what is copied shares nothing with what is saved there",
		splits(src), splits(dst)), "--copy copies it all the same; a destination made by 'init' with the chunker of the source shares")
}

func splits(c repo.Config) string {
	if c.SplitTrees {
		return c.Chunker + " with split trees"
	}
	return c.Chunker
}

// notePruned lets what is left behind by a move be found again for 14 days, where the
// repository is a directory. A server keeps its own diary.
func notePruned(ctx context.Context, r repository, moves []repo.Move) error {
	d, ok := r.(directory)
	if !ok {
		return nil
	}
	u, err := d.Upkeep(ctx)
	if err != nil {
		return err
	}
	defer u.Close()
	var notes []repo.Pruned
	for _, m := range moves {
		notes = append(notes, repo.Pruned{Ref: m.Ref, Old: m.Old, New: m.New})
	}
	return u.NotePruned(ctx, notes...)
}

// printGot prints what -t, -c, --print-tags and -v ask for.
func (a *app) printGot(o *getOptions, res get.Result) error {
	if a.common.verbose > 0 {
		for _, m := range res.Moves {
			a.ui.raw(updatedLine(m))
		}
	}
	if a.common.json {
		return nil
	}
	var b []byte
	for _, out := range res.Outcomes {
		switch {
		case out.Ref == "":
		case strings.HasPrefix(out.Ref, "refs/tags/"):
			if o.tags {
				b = append(out.ID.AppendHex(b), '\n')
			}
		default:
			if o.trees {
				b = append(out.Tree.AppendHex(b), '\n')
			}
			if o.commits {
				b = append(out.ID.AppendHex(b), '\n')
			}
		}
	}
	return a.print(b)
}

// updatedLine says that a ref was moved, as bup does.
func updatedLine(m repo.Move) []byte {
	verb, ids := "updated", m.Old.String()+" -> "+m.New.String()
	switch {
	case m.New.IsZero():
		verb, ids = "deleted", m.Old.String()
	case m.Old.IsZero():
		ids = m.New.String()
	}
	return fmt.Appendf(nil, "%s %s (%s)\n", verb, escape(m.Ref), ids)
}

// getResult is the result of get in JSON.
type getResult struct {
	Objects int64     `json:"objects"`
	Bytes   int64     `json:"bytes"`
	Skipped int64     `json:"objects_missing"`
	Refs    []movedTo `json:"refs"`
}

// movedTo is a ref that was moved, in JSON.
type movedTo struct {
	Ref string `json:"ref"`
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

func getJSON(r get.Result) getResult {
	j := getResult{Objects: r.Objects, Bytes: r.Bytes, Skipped: r.Skipped, Refs: []movedTo{}}
	for _, m := range r.Moves {
		to := movedTo{Ref: m.Ref, New: m.New.String()}
		if !m.Old.IsZero() {
			to.Old = m.Old.String()
		}
		j.Refs = append(j.Refs, to)
	}
	return j
}
