// Package pack reads and writes git objects in pack files: ids, the encoding of
// one object, pack v2, idx v2. It knows no repository, no refs and no trees.
package pack
