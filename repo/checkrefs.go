package repo

import (
	"fmt"
	"strings"

	"github.com/kedgebackup/kedge/pack"
)

// derived checks what could be made again.
func (c *checker) derived() {
	if m := c.p.table.Load().midx; m != nil {
		if err := m.Verify(); err != nil {
			c.findErr(BadDerived, fileMidx, err)
		}
		return
	}
	c.p.mu.Lock()
	err := c.p.warnings[fileMidx] // it could not be opened
	c.p.mu.Unlock()
	if err != nil {
		c.findErr(BadDerived, fileMidx, err)
	}
}

// findRefs finds where the check of all begins, and compares with the diary.
func (c *checker) findRefs() error {
	if err := c.head(); err != nil {
		return err
	}
	refs, err := c.p.Refs(c.ctx, "refs/")
	if err != nil && !damaged(err) {
		return err
	}
	if err != nil {
		if err := c.brokenRefs(err); err != nil {
			return err
		}
	}
	at := make(map[string]pack.ID)
	for _, ref := range refs {
		c.tips = append(c.tips, tip{ref.Name, ref.ID, true})
		at[ref.Name] = ref.ID
	}
	return c.diary(at)
}

// head looks at HEAD: without one git, and bup with it, takes the directory for no
// repository. What it leads to need not be there. A mirror has its own.
func (c *checker) head() error {
	if c.p.dir == nil {
		return nil
	}
	if _, err := c.p.dir.fs.Lstat(c.p.dir.name("refs")); noFile(err) {
		c.find(Finding{Kind: BadRef, File: "refs", Reason: "is missing, and git takes this for no repository; init makes it anew"})
	}
	const file = "HEAD"
	text, err := c.p.dir.fs.ReadFile(c.p.dir.name(file), maxLooseRef)
	if noFile(err) {
		c.find(Finding{Kind: BadRef, File: file, Reason: "is missing, and git takes this for no repository; init makes it anew"})
		return nil
	} else if err != nil {
		return err
	}
	id, target, err := parseLooseRef(file, text)
	switch {
	case err != nil:
		c.findErr(BadRef, file, err)
	case target == "":
		c.tips = append(c.tips, tip{file, id, true})
	case CheckRefName(target) != nil || !strings.HasPrefix(target, "refs/"):
		c.find(Finding{Kind: BadRef, File: file, Reason: fmt.Sprintf("leads to %.100q, which is no ref", target)})
	case !strings.HasPrefix(target, headsPrefix):
		c.find(Finding{Kind: Note, File: file, Reason: fmt.Sprintf("leads to %s, which is no branch", target)})
	}
	return nil
}

// brokenRefs reports every ref that holds no id. Err is what was found wrong with one.
func (c *checker) brokenRefs(err error) error {
	d := c.p.dir
	if d == nil {
		c.findErr(BadRef, corruptFile(err), err)
		return nil
	}
	werr := d.walkRefs(c.ctx, "refs", "refs/", func(name string) error {
		if CheckRefName(name) != nil {
			return nil
		}
		_, _, err := d.looseRef(name)
		if damaged(err) && corruptFile(err) != filePackedRefs {
			c.findErr(BadRef, name, err)
			return nil
		}
		return err
	})
	if damaged(werr) { // a symbolic ref to one that is packed
		werr = nil
	}
	if _, err := d.packedRefs(); damaged(err) {
		c.findErr(BadRef, filePackedRefs, err)
	}
	return werr
}

// diary compares where refs are with where their last receipts say.
func (c *checker) diary(at map[string]pack.ID) error {
	last := make(map[string]pack.ID)
	err := c.p.Receipts(c.ctx, func(r Receipt) error {
		last[r.Ref] = r.New
		return nil
	})
	if err != nil {
		if !damaged(err) {
			return err
		}
		c.findErr(BadReceipts, fileReceipts, err)
		return nil // what came last is not known
	}
	for ref, want := range last {
		if got := at[ref]; got != want {
			c.find(Finding{Kind: Moved, Ref: ref, Object: got, Reason: fmt.Sprintf("is at %v, and %v in the last receipt", got, want)})
		}
	}
	return nil
}

// quickTips makes sure that what the refs name is there and can be read.
func (c *checker) quickTips() error {
	for _, t := range c.tips {
		if c.isBad(t.id) {
			continue
		}
		err := c.p.Get(c.ctx, []pack.ID{t.id}, func(int, pack.Type, []byte) error { return nil })
		if err != nil {
			if err = c.unreadable(t.id, t.ref, err); err != nil {
				return err
			}
		}
	}
	return nil
}
