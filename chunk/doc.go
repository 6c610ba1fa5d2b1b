// Package chunk cuts a stream of bytes into chunks at places that its content
// decides, so that an insertion moves only the cuts next to it.
package chunk
