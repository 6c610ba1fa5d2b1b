package meta

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const xattrCapability = "security.capability"

// applyExtended gives the object its ACLs and extended attributes, those of the
// security name space (last) or all others (not last). What is right already
// is not written. What the object has too much is removed: a new file may have
// got an ACL from its directory.
func (a *Applier) applyExtended(o *object, m *Meta, out *Outcome, last bool) {
	if last && !slices.ContainsFunc(m.Extras.Xattrs, isSecurity) {
		return
	}
	var small [512]byte
	var list []byte
	inherits := m.Type() != TypeSymlink // links have no ACL that could come from their directory
	if inherits || len(m.Extras.Xattrs) > 0 {
		var err error
		if list, err = o.list(small[:]); err != nil && !absent(err) {
			out.fail("extended attributes", err)
		}
	}
	if !last {
		if len(list) > 0 {
			a.removeSurplus(o, m, list, out)
		}
		if m.Extras.ACL != nil {
			a.applyACL(o, m, out)
		}
	}
	for _, x := range m.Extras.Xattrs {
		if isSecurity(x) != last || covered(m, x.Name) {
			continue
		}
		if !a.opts.System && !ordinary(x.Name) {
			out.withhold(x.Name)
			continue
		}
		if err := setIfOther(o, list, x.Name, []byte(x.Value)); err != nil {
			out.fail(x.Name, err)
		}
	}
}

func isSecurity(x Xattr) bool { return strings.HasPrefix(x.Name, "security.") }

func isACL(name string) bool { return name == xattrACLAccess || name == xattrACLDefault }

// xfsACL begins the names under which xfs shows root an ACL a second time, in a
// form of its own. They are saved like everything that is listed, but to set or
// remove one would change the ACL.
const xfsACL = "trusted.SGI_ACL_"

// covered reports whether the ACL record of m says what the attribute says.
func covered(m *Meta, name string) bool {
	return isACL(name) && m.Extras.ACL != nil || strings.HasPrefix(name, xfsACL)
}

// ordinary reports whether an attribute gives no rights and takes none to set.
func ordinary(name string) bool {
	return !strings.HasPrefix(name, "security.") && !strings.HasPrefix(name, "trusted.")
}

// removable reports whether an attribute that is not in the save is taken away.
// Labels that a security module puts on every file are not ours to remove; a
// capability is, or a file could keep rights that it had not when it was saved.
func (a *Applier) removable(name string) bool {
	return strings.HasPrefix(name, "user.") || isACL(name) || name == xattrCapability ||
		a.opts.System && strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, xfsACL)
}

// wanted reports whether m has the attribute.
func wanted(m *Meta, name string) bool {
	if acl := m.Extras.ACL; acl != nil && isACL(name) {
		if name == xattrACLAccess {
			return acl.extended()
		}
		return acl.Default+acl.DefaultNum != ""
	}
	return slices.ContainsFunc(m.Extras.Xattrs, func(x Xattr) bool { return x.Name == name })
}

func (a *Applier) removeSurplus(o *object, m *Meta, list []byte, out *Outcome) {
	eachName(list, func(name string) bool {
		if !wanted(m, name) && a.removable(name) {
			if err := o.remove(name); err != nil && err != unix.ENODATA {
				out.fail(name, err)
			}
		}
		return true
	})
}

// setIfOther sets an attribute unless it is in the list and has the value.
func setIfOther(o *object, list []byte, name string, value []byte) error {
	found := false
	eachName(list, func(have string) bool { found = have == name; return !found })
	if found {
		if now, err := o.get(name); err == nil && now == string(value) {
			return nil
		}
	}
	return o.set(name, value)
}

// extended reports whether the access list says more than the mode does.
func (a *ACL) extended() bool {
	return max(strings.Count(a.Access, ","), strings.Count(a.AccessNum, ",")) > 2
}

// applyACL sets the ACLs of m's record.
func (a *Applier) applyACL(o *object, m *Meta, out *Outcome) {
	access, dflt, err := a.kernelACLs(m.Extras.ACL)
	if err != nil {
		out.fail("ACL", err)
		return
	}
	if len(access) > 0 && m.Extras.ACL.extended() {
		out.fail("ACL", o.set(xattrACLAccess, access))
	}
	if len(dflt) > 0 && m.Type() == TypeDir {
		out.fail("ACL", o.set(xattrACLDefault, dflt))
	}
}

// kernelACLs returns the two lists as the kernel takes them, nil for one that
// there is not. They are valid until the next call.
func (a *Applier) kernelACLs(acl *ACL) (access, dflt []byte, err error) {
	list, err := a.resolveACL(acl.Access, acl.AccessNum)
	if err != nil {
		return nil, nil, fmt.Errorf("access: %w", err)
	}
	dlist, err := a.resolveACL(acl.Default, acl.DefaultNum)
	if err != nil {
		return nil, nil, fmt.Errorf("default: %w", err)
	}
	a.acl = a.acl[:0]
	if len(list) > 0 {
		a.acl = appendACL(a.acl, list)
	}
	n := len(a.acl)
	if len(dlist) > 0 {
		a.acl = appendACL(a.acl, dlist)
	}
	return a.acl[:n:n], a.acl[n:], nil
}

// resolveACL makes one list of its two texts: the one with names tells the
// names, the other one the numbers that count where there is no such name. They
// are in the same order, because both are sorted by number.
func (a *Applier) resolveACL(text, numbers string) ([]aclEntry, error) {
	if text == "" {
		text = numbers
	}
	if text == "" {
		return nil, nil
	}
	list, err := parseACLText(text)
	if err != nil {
		return nil, err
	}
	var nums []aclEntry
	if numbers != "" {
		if nums, err = parseACLText(numbers); err != nil {
			return nil, err
		}
	}
	for i := range list {
		e := &list[i]
		if i < len(nums) && len(nums) == len(list) && nums[i].tag == e.tag && nums[i].name == "" {
			e.id = nums[i].id
		}
		if err := a.resolveACLEntry(e); err != nil {
			return nil, err
		}
	}
	sortACL(list)
	return list, nil
}

// resolveACLEntry finds the id of an entry as that of an owner is found.
func (a *Applier) resolveACLEntry(e *aclEntry) error {
	if e.tag != aclUser && e.tag != aclGroup {
		return nil
	}
	number := int64(-1)
	if e.id != aclNoID {
		number = int64(e.id)
	}
	var id int
	var err error
	if e.tag == aclUser {
		id, err = resolve(number, e.name, a.opts.MapUID, a.opts.MapUser, a.opts.Numeric, a.names.UID)
	} else {
		id, err = resolve(number, e.name, a.opts.MapGID, a.opts.MapGroup, a.opts.Numeric, a.names.GID)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", e.name, err)
	}
	e.id = uint32(id)
	return nil
}

// extendedDiffer reports whether applyExtended would change anything.
func (a *Applier) extendedDiffer(o *object, m *Meta) (bool, error) {
	var small [512]byte
	list, err := o.list(small[:])
	if err != nil && !absent(err) {
		return false, fmt.Errorf("extended attributes: %w", err)
	}
	differs := false
	eachName(list, func(name string) bool {
		differs = !wanted(m, name) && a.removable(name)
		return !differs
	})
	if differs {
		return true, nil
	}
	other := func(name, want string) bool {
		now, e := o.get(name)
		if e != nil && e != unix.ENODATA && !absent(e) {
			err = errors.Join(err, &PartError{Part: name, Err: e})
			return false
		}
		return e != nil || now != want
	}
	err = nil
	if acl := m.Extras.ACL; acl != nil {
		access, dflt, aerr := a.kernelACLs(acl)
		if aerr != nil {
			return false, &PartError{Part: "ACL", Err: aerr}
		}
		if len(access) > 0 && acl.extended() && other(xattrACLAccess, string(access)) ||
			len(dflt) > 0 && other(xattrACLDefault, string(dflt)) {
			return true, err
		}
	}
	for _, x := range m.Extras.Xattrs {
		if !a.opts.System && !ordinary(x.Name) || covered(m, x.Name) {
			continue
		}
		if other(x.Name, x.Value) {
			return true, err
		}
	}
	return false, err
}
