# tclsh recorder.tcl SPEC SCRIPT LOG [name=value ...]: runs SCRIPT with every vendor command replaced by a recorder that knows its
# options.  A line of SPEC is: name {options with a value} {flags} least most.  What is not in SPEC, an unknown option and a wrong
# number of arguments are errors.  LOG gets the calls, arguments parted by 0x1f.  name=value pairs set what the stubs answer.
lassign $argv spec_file script log_file
array set answer {slack 0.123 hold 0.011 pulse 0.0 boards 1 parts 1 hertz "" progress 100%}
foreach pair [lrange $argv 3 end] {
    lassign [split $pair =] key value
    set answer($key) $value
}
set log [open $log_file w]
set channel [open $spec_file]
while {[gets $channel line] >= 0} {
    set line [string trim $line]
    if {$line eq "" || [string index $line 0] eq "#"} continue
    lassign $line name valued flags least most
    set spec($name) [list $valued $flags $least $most]
    proc ::$name args "return \[recorded $name \$args\]"
}
close $channel

proc recorded {name arguments} {
    global spec answer log
    lassign $spec($name) valued flags least most
    set positional {}
    for {set n 0} {$n < [llength $arguments]} {incr n} {
        set argument [lindex $arguments $n]
        if {[string match -* $argument] && ![string is double -strict $argument]} {
            if {$argument in $flags} continue
            if {$argument ni $valued} { error "$name: option $argument is not known" }
            incr n
            if {$n >= [llength $arguments]} { error "$name: $argument wants a value" }
        } else {
            lappend positional $argument
        }
    }
    set count [llength $positional]
    if {$count < $least || ($most ne "*" && $count > $most)} { error "$name: $count arguments, $least to $most are allowed" }
    puts $log [join [concat [list $name] $arguments] \x1f]
    switch -- $name {
        get_parts { return [expr {$answer(parts) ? [lindex $positional 0] : ""}] }
        get_board_parts { return [expr {$answer(boards) ? [string map {* 1.0} [lindex $positional 0]] : ""}] }
        get_ipdefs { return [string map {* ""} [lindex $positional 0]] }
        get_bd_pins - get_bd_intf_pins - get_bd_cells - get_bd_addr_segs - get_bd_addr_spaces { return [lindex $positional 0] }
        get_property {
            switch -- [lindex $positional 0] {
                PROGRESS { return $answer(progress) }
                STATS.WNS { return $answer(slack) }
                STATS.WHS { return $answer(hold) }
                STATS.TPWS { return $answer(pulse) }
                CONFIG.FREQ_HZ { return $answer(hertz) }
            }
            return ""
        }
    }
    return "<$name>"
}

# Files that a real run would have written.
rename file real_file
proc file {what args} {
    global log
    if {$what in {copy mkdir}} {
        puts $log [join [concat [list "file $what"] $args] \x1f]
        return
    }
    return [real_file $what {*}$args]
}
rename glob real_glob
proc glob args {
    foreach argument $args { if {[string match *meadow.hwh $argument]} { return $argument } }
    return [real_glob {*}$args]
}
proc cd args {}
rename exit real_exit
proc exit {{code 0}} {
    close $::log
    real_exit $code
}
if {[catch {source $script} message options]} {
    set line ?
    regexp {\(file ".*" line (\d+)\)} [dict get $options -errorinfo] -> line
    puts stderr "$script:$line: $message"
    exit 99
}
exit 0
