package meta

import "fmt"

// The attributes of linux/fs.h that a user can ask for with chattr.
const (
	flagSecureDelete = 0x00000001
	flagUndelete     = 0x00000002
	flagCompress     = 0x00000004
	flagSync         = 0x00000008
	flagImmutable    = 0x00000010
	flagAppend       = 0x00000020
	flagNoDump       = 0x00000040
	flagNoAtime      = 0x00000080
	flagJournalData  = 0x00004000
	flagNoTail       = 0x00008000
	flagDirSync      = 0x00010000
	flagTopDir       = 0x00020000
	flagNoCow        = 0x00800000
)

// flagLetters are the attributes that are restored, with chattr's letters. Of
// what a saved file had, the others describe how its file system stored it and
// mean nothing elsewhere. That goes for extents (e) too, though chattr takes it:
// ext4 sets it on every file by itself, and other file systems refuse the whole
// call if it is asked for.
var flagLetters = [...]struct {
	flag   uint32
	letter string
}{
	{flagSecureDelete, "s"}, {flagUndelete, "u"}, {flagCompress, "c"}, {flagSync, "S"},
	{flagImmutable, "i"}, {flagAppend, "a"}, {flagNoDump, "d"}, {flagNoAtime, "A"},
	{flagJournalData, "j"}, {flagNoTail, "t"}, {flagDirSync, "D"}, {flagTopDir, "T"},
	{flagNoCow, "C"},
}

const settable = flagSecureDelete | flagUndelete | flagCompress | flagSync | flagImmutable |
	flagAppend | flagNoDump | flagNoAtime | flagJournalData | flagNoTail | flagDirSync |
	flagTopDir | flagNoCow

// sealing are the attributes with which nothing can be done to a file any more.
const sealing = flagImmutable | flagAppend

// addFlags adds attributes to those that the object has. If the file system
// refuses them together they are tried one by one, and the error names those
// that it does not have.
func addFlags(o *object, want uint32) error {
	now, err := o.flags()
	if err != nil {
		return err
	}
	if want&^now == 0 {
		return nil
	}
	if err = o.setFlags(now | want); err == nil {
		return nil
	}
	refused := ""
	for _, f := range flagLetters {
		if want&^now&f.flag == 0 {
			continue
		}
		if e := o.setFlags(now | f.flag); e != nil {
			refused, err = refused+f.letter, e
			continue
		}
		now |= f.flag
	}
	if refused == "" {
		return nil
	}
	return fmt.Errorf("%s: %w", refused, err)
}
