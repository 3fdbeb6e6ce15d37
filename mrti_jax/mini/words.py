# SPDX-License-Identifier: Apache-2.0
"""Words beyond the world's captions that the miniature's tokenizer keeps whole."""

TEMPLATE_WORDS = """
a an the of in on with and my one many some photo photos photograph picture image painting
drawing rendering rendition depiction sketch cropped close up bright dark bad good nice cool
weird clean dirty large small style low high resolution blurry black white pixelated art
artwork sculpture tattoo toy plush cartoon origami doodle graffiti game video hard to see
there is scene object thing
"""

EVERYDAY_WORDS = """
i you he she it we they me him her us them your his its our their this that these those
not no yes all any every each both two three four five six seven eight nine ten first last
at by for from into over under near behind between above below beside around across through
left right top bottom middle center centre corner side front back inside outside up down
be are was were has have had do does make made like look looks as or but if so very more most
less too also only same other another new old big little tiny huge tall short long wide thin
round flat sharp soft shiny smooth rough simple pretty beautiful cute funny happy sad hot cold
warm light day night morning evening summer winter spring autumn sun moon star sky cloud rain
snow wind sea beach water river lake hill mountain forest tree grass garden field road street
city house home room door window wall floor table chair bed box bag cup plate bowl bottle book
paper pen pencil clock lamp ball hat shirt shoe coat car bus train boat ship plane bike
man woman boy girl child person people baby king queen hand head face eye hair
dog cat bird fish horse cow sheep pig mouse rabbit bear lion tiger duck bee butterfly animal
apple lemon bread cake cheese egg milk tea coffee fruit food
stone wood metal glass gold silver plastic cloth leather clay gray grey violet cyan dark bright
colour color coloured colored colorful pattern shape shapes texture background stripe stripes
dot dots check checks ring rings line lines spot spots edge size plain striped dotted checked
ringed zigzag tiled shaded gradient photo realistic abstract digital oil watercolor ink
portrait landscape studio detailed concept word name test hello world
"""
