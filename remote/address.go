package remote

// Address is where a repository is.
type Address struct {
	User string // "": as the SSH client has it
	Host string // "" with a Command: no SSH, the command is run here
	Port int    // 0: as the SSH client has it
	Path string // as the server takes it; "": the repository that the key is pinned to
}

// ParseAddress reads ssh://[user@]host[:port]/path, [user@]host:path, and -:path for a
// server that is a child process of this machine.
func ParseAddress(s string) (Address, error) { panic("stub") }

// String returns the address as ssh://…, as messages show it.
func (a Address) String() string { panic("stub") }
