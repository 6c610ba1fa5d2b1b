// Command kedge is a deduplicating backup engine on a plain git repository.
package main

func main() {}
